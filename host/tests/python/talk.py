"""Joins `realtime:python` at a mount with Supabase's Python client, and writes a line for each thing that it notices.

Says what each line of its standard input holds, and leaves at the end of it.
"""

import asyncio
import json
import sys

from realtime import AsyncRealtimeClient


def tell(what, about):
    print(json.dumps({what: about}), flush=True)


async def talk(mount):
    client = AsyncRealtimeClient(mount, initial_backoff=0.05, max_retries=8)
    channel = client.channel("python")
    channel.on_broadcast("said", lambda message: tell("heard", message["payload"]))
    await channel.subscribe(lambda state, error: tell("state", state.value))
    while line := await asyncio.to_thread(sys.stdin.readline):
        await channel.send_broadcast("broadcast", {"event": "said", "payload": json.loads(line)})
    await channel.unsubscribe()
    await client.close()


asyncio.run(talk(sys.argv[1]))
