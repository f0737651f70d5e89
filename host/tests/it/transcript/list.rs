transcripts! {
    binary (not v1: "it has no binary messages")
    disconnecting
    duplicate_join
    heartbeat
    identity
    intercepting
    invalid_bytes
    join_refs
    join_refused
    joining
    late_join
    leaving
    null_join_ref
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
    too_many_channels
    undecodable (not v1: "what is no message there stands in v1/undecodable")
    unmatched_topic
}
