class JobsController < ApplicationController
  def show
    position = Tablecast.position # first: what commits after this is on the page, or comes, or both
    @job = Job.find(params[:id])
    @lines = @job.lines.order(:n).to_a

    identifier = { channel: "LogChannel", job_id: @job.id }.to_json
    @events = "/events?" + { identifier:, "last-event-id": position }.to_query
  end
end
