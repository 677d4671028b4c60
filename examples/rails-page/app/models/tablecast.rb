require "net/http"

# What this application asks of tablecast's internal listener.
module Tablecast
  INTERNAL = URI(ENV.fetch("TABLECAST_INTERNAL", "http://127.0.0.1:8081"))
  KEY = ENV["TABLECAST_PUBLISH_KEY"] # if the listener has one

  # Where the table is now. All that commits from here on comes after it.
  def self.position
    request = Net::HTTP::Get.new("/position")
    request["Authorization"] = "Bearer #{KEY}" if KEY
    secure = INTERNAL.scheme == "https"
    answer = Net::HTTP.start(INTERNAL.host, INTERNAL.port, use_ssl: secure, open_timeout: 2, read_timeout: 6) do |http|
      http.request(request)
    end
    answer.value # raises what isn't 200
    JSON.parse(answer.body).fetch("position")
  end
end
