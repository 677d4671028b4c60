import { events } from "../../../tablecast";

export const dynamic = "force-dynamic";

export async function GET(request, { params }) {
  const { id } = await params;
  // Here the application looks whether this visitor may see the job: new Response(null, { status: 403 }).
  const from = request.headers.get("last-event-id") ?? new URL(request.url).searchParams.get("from");
  return events({ channel: "LogChannel", job_id: id }, from, request.signal);
}
