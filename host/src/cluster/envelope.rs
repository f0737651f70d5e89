//! One message of the broker between two nodes: a head that numbers it, and a part of the stream of items.

/// What every envelope begins with. The last byte is the version: another one is ignored and counted.
const MAGIC: [u8; 4] = *b"BNU\x02";
/// The head: magic, flags, both epochs, number, ack.
const HEAD: usize = 4 + 1 + 4 + 4 + 8 + 8;
/// There is a body.
const BODY: u8 = 1;
/// The sender does not know yet that the link is up, and waits to hear it.
const ASKS: u8 = 2;

/// What a node tells another at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    /// How often the sender has begun this link.
    pub(crate) mine: u32,
    /// What the sender knows of the receiver's `mine`. 0: nothing.
    pub(crate) yours: u32,
    /// Its number in the link, if it has a body.
    pub(crate) number: u64,
    /// The number up to which the sender has taken in all bodies.
    pub(crate) ack: u64,
    /// The sender waits for an answer that tells it that the link is up.
    pub(crate) asks: bool,
    /// The next part of the stream of items. It may begin and end within one.
    pub(crate) body: Option<&'a [u8]>,
}

impl<'a> Envelope<'a> {
    /// What it takes on its way, besides its body.
    pub(crate) const HEAD: usize = HEAD;

    /// The bytes that the broker carries.
    #[must_use]
    pub(crate) fn write(&self) -> Vec<u8> {
        let (body_flag, body) = self.body.map_or((0, &[][..]), |body| (BODY, body));
        let flags = body_flag | if self.asks { ASKS } else { 0 };
        let mut out = Vec::with_capacity(HEAD + body.len());
        out.extend(MAGIC);
        out.push(flags);
        out.extend(self.mine.to_be_bytes());
        out.extend(self.yours.to_be_bytes());
        out.extend(self.number.to_be_bytes());
        out.extend(self.ack.to_be_bytes());
        out.extend(body);
        out
    }

    /// Reads what the broker has brought. `None`: no node of this version has sent it.
    #[must_use]
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (flags, rest) = rest.split_first()?;
        let (mine, rest) = rest.split_first_chunk()?;
        let (yours, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (ack, body) = rest.split_first_chunk()?;
        let body = match *flags & !ASKS {
            0 if body.is_empty() => None,
            BODY => Some(body),
            _ => return None,
        };
        Some(Self {
            mine: u32::from_be_bytes(*mine),
            yours: u32::from_be_bytes(*yours),
            number: u64::from_be_bytes(*number),
            ack: u64::from_be_bytes(*ack),
            asks: *flags & ASKS != 0,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_read_as_it_was_written(mine: u32, yours: u32, number: u64, ack: u64, asks: bool, body: Option<Vec<u8>>) {
            let body = body.as_deref();
            let envelope = Envelope { mine, yours, number, ack, asks, body };
            let written = envelope.write();
            prop_assert_eq!(Envelope::read(&written), Some(envelope.clone()));
        }

        #[test]
        fn nothing_that_comes_is_more_than_ignored(bytes: Vec<u8>, flags: u8) {
            drop(Envelope::read(&bytes));
            drop(Envelope::read(&[&MAGIC[..], &[flags], &bytes].concat()));
        }
    }

    #[test]
    fn another_version_is_not_read() {
        let envelope = Envelope {
            mine: 1,
            yours: 0,
            number: 0,
            ack: 0,
            asks: true,
            body: None,
        };
        let mut bytes = envelope.write();
        assert_eq!(bytes.len(), Envelope::HEAD);
        bytes[3] += 1;
        assert_eq!(Envelope::read(&bytes), None);
    }
}
