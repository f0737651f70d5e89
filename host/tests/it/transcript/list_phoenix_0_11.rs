transcripts! {
    bad_messages
    duplicate_join
    ends
    heartbeat
    joining
    late_join
    leaving
    order
    payloads
    presence
    replies
    sending
    too_many_channels
    unmatched_topic
    withheld
}
