transcripts! {
    binary (not v1: "it has no binary messages")
    disconnecting
    duplicate_join
    heartbeat (not kit: "the connection answers heartbeats, not a plugin")
    identity
    intercepting
    invalid_bytes
    join_refs (not kit: "the socket tells joins apart by their refs")
    join_refused
    joining
    late_join
    leaving
    null_join_ref (not kit: "the socket tells joins apart by their refs")
    panicking
    payload_errors
    presence
    presence_described
    presence_ends
    replies
    replies_later
    sending
    stopping
    timers
    too_many_channels (not kit: "the mount has the limit")
    undecodable (not v1: "what is no message there stands in v1/undecodable") (not kit: "it decodes no frames")
    unmatched_topic (not kit: "the socket finds no route, or no channel")
}
