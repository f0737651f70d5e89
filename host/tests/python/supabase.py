"""A channel of Supabase's Python client, which does what each line of its standard input says: `{"do": …}`.

Writes a line for each thing that it notices. Its arguments: the address of the mount, the key, a user's token or nothing, the name
of the channel, and its config as JSON.
"""

import asyncio
import json
import sys

from realtime import AsyncRealtimeClient
from realtime.types import RealtimePostgresChangesListenEvent


def tell(what, about):
    print(json.dumps({what: about}), flush=True)


def without_refs(state):
    return {key: [{name: meta[name] for name in meta if name != "presence_ref"} for meta in metas] for key, metas in state.items()}


async def main(mount, key, user, name, config):
    client = AsyncRealtimeClient(mount, key, initial_backoff=0.05, max_retries=8)
    if user:
        await client.set_auth(user)
    channel = client.channel(name, {"config": json.loads(config)})
    channel.on_broadcast("said", lambda message: tell("heard", message["payload"]))
    channel.on_system(lambda payload: tell("system", payload.message))
    channel.on_presence_sync(lambda: tell("present", without_refs(channel.presence_state())))
    channel.on_postgres_changes(RealtimePostgresChangesListenEvent.Insert, lambda change: None, table="a", filter="id=eq.1")
    await channel.subscribe(lambda state, error: tell("state", [state.value, str(error) if error else None]))
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        match command["do"]:
            case "say":
                await channel.send_broadcast("said", command["payload"])
            case "post":
                try:
                    await channel.http_send("said", command["payload"])
                    tell("posted", None)
                except Exception as error:
                    tell("posted", str(error))
            case "track":
                await channel.track(command["payload"])
            case "untrack":
                await channel.untrack()
            case "renew":
                await client.set_auth(command["token"])
    await channel.unsubscribe()
    await client.close()


asyncio.run(main(*sys.argv[1:]))
