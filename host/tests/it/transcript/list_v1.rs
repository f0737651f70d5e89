transcripts! {
    binary_opcode
    channel
    undecodable
}
