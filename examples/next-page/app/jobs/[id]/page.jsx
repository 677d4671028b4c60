import { history } from "../../tablecast";
import Log from "./log";

export const dynamic = "force-dynamic";

export default async function Page({ params }) {
  const { id } = await params;
  const { messages, position } = await history(`log:${id}`);
  // With the key a refreshed page begins anew, from its new position.
  return <Log key={position} id={id} lines={messages.map(({ data }) => data)} position={position} />;
}
