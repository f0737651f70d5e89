//! What the broker carries of a question or an answer: a part of its bytes, or a word in their place.

use bytes::Bytes;

use crate::cluster::answers::NoAnswer;

/// What every part begins with. The last byte is the version: another one is ignored and counted.
const MAGIC: [u8; 4] = *b"BNQ\x01";
/// Bytes of a question or an answer follow.
const BYTES: u8 = 0;
/// Nobody waits for the answer any more.
const NEVER_MIND: u8 = 1;
/// There is no answer, for the reason that follows.
const NO_ANSWER: u8 = 2;
/// Why there may be no answer, as it is written.
const REASONS: [NoAnswer; 3] = [NoAnswer::TooMany, NoAnswer::TooLarge, NoAnswer::Unknown];

/// One message of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Bytes, from this place on, of so many in all.
    Bytes { total: u32, offset: u32, bytes: Bytes },
    /// Nobody waits for the answer any more.
    NeverMind,
    /// There is none.
    NoAnswer(NoAnswer),
}

impl Part {
    /// What it takes on its way, besides its bytes.
    pub(super) const HEAD: usize = 4 + 1 + 4 + 4;

    /// The bytes that the broker carries.
    #[must_use]
    pub(super) fn write(&self) -> Bytes {
        let mut out = MAGIC.to_vec();
        match self {
            Self::Bytes { total, offset, bytes } => {
                out.reserve_exact(Self::HEAD + bytes.len() - MAGIC.len());
                out.push(BYTES);
                out.extend(total.to_be_bytes());
                out.extend(offset.to_be_bytes());
                out.extend(bytes);
            }
            Self::NeverMind => out.push(NEVER_MIND),
            Self::NoAnswer(why) => {
                // The others are never sent.
                let why = REASONS.iter().position(|reason| reason == why).unwrap_or(0);
                out.extend([NO_ANSWER, why as u8]);
            }
        }
        out.into()
    }

    /// Reads what the broker has brought. `None`: no node of this version has sent it.
    #[must_use]
    pub(super) fn read(message: &Bytes) -> Option<Self> {
        let (kind, rest) = message.strip_prefix(&MAGIC)?.split_first()?;
        match (*kind, rest) {
            (NEVER_MIND, []) => Some(Self::NeverMind),
            (NO_ANSWER, [why]) => Some(Self::NoAnswer(*REASONS.get(usize::from(*why))?)),
            (BYTES, rest) => {
                let (total, rest) = rest.split_first_chunk()?;
                let (offset, bytes) = rest.split_first_chunk()?;
                Some(Self::Bytes {
                    total: u32::from_be_bytes(*total),
                    offset: u32::from_be_bytes(*offset),
                    bytes: message.slice_ref(bytes),
                })
            }
            _ => None,
        }
    }
}

/// Cuts bytes into parts of so many at most: one, if there are none.
pub(super) fn cut(whole: &Bytes, most: usize) -> impl Iterator<Item = Part> {
    let total = whole.len() as u32;
    let starts = (0..whole.len().max(1)).step_by(most);
    starts.map(move |start| Part::Bytes {
        total,
        offset: start as u32,
        bytes: whole.slice(start..whole.len().min(start + most)),
    })
}

/// The parts that have come of some bytes.
#[derive(Debug)]
pub(super) struct Whole {
    total: usize,
    bytes: Vec<u8>,
}

/// A part does not follow those before it: one was lost on the way, or no node has sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

impl Whole {
    /// So many bytes, none of which has come yet.
    #[must_use]
    pub(super) fn new(total: u32) -> Self {
        Self {
            total: total as usize,
            bytes: Vec::new(),
        }
    }

    /// Adds the next part. Returns all of it, once it is there.
    ///
    /// # Errors
    ///
    /// If this is not the next part.
    pub(super) fn add(&mut self, total: u32, offset: u32, bytes: &Bytes) -> Result<Option<Bytes>, Broken> {
        let is_next = total as usize == self.total
            && offset as usize == self.bytes.len()
            && bytes.len() <= self.total - self.bytes.len()
            && (!bytes.is_empty() || total == 0);
        if !is_next {
            return Err(Broken);
        }
        if bytes.len() == self.total {
            // Most come in one part, which nobody copies.
            return Ok(Some(bytes.clone()));
        }
        self.bytes.extend_from_slice(bytes);
        let is_whole = self.bytes.len() == self.total;
        Ok(is_whole.then(|| std::mem::take(&mut self.bytes).into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_cut_is_whole_again_and_each_part_is_read_as_it_was_written(whole: Vec<u8>, most in 1..40_usize) {
            let whole = Bytes::from(whole);
            let (mut again, mut found) = (Whole::new(whole.len() as u32), None);
            for part in cut(&whole, most) {
                prop_assert!(found.is_none(), "nothing comes behind the last part");
                let written = part.write();
                prop_assert!(written.len() <= Part::HEAD + most);
                prop_assert_eq!(Part::read(&written), Some(part.clone()));
                let Part::Bytes { total, offset, bytes } = part else { unreachable!() };
                found = again.add(total, offset, &bytes).expect("it is the next");
            }
            prop_assert_eq!(found, Some(whole));
        }

        #[test]
        fn nothing_that_comes_is_more_than_ignored(bytes: Vec<u8>, kind: u8) {
            drop(Part::read(&bytes.clone().into()));
            drop(Part::read(&[&MAGIC[..], &[kind], &bytes].concat().into()));
        }

        #[test]
        fn no_part_makes_more_than_was_said(parts: Vec<(u32, u32, Vec<u8>)>) {
            let mut whole = Whole::new(8);
            for (total, offset, bytes) in parts {
                if let Ok(Some(found)) = whole.add(total % 10, offset % 10, &bytes.into()) {
                    prop_assert_eq!(found.len(), 8);
                }
            }
        }
    }

    #[test]
    fn words_are_read_as_they_were_written() {
        for part in [Part::NeverMind].into_iter().chain(REASONS.map(Part::NoAnswer)) {
            assert_eq!(Part::read(&part.write()), Some(part));
        }
    }

    #[test]
    fn a_part_that_is_lost_is_noticed() {
        let bytes = Bytes::from_static(b"abc");
        let mut whole = Whole::new(9);
        assert_eq!(whole.add(9, 0, &bytes), Ok(None));
        assert_eq!(whole.add(9, 6, &bytes), Err(Broken));
        assert_eq!(whole.add(8, 3, &bytes), Err(Broken), "it is of something else");
        assert_eq!(whole.add(9, 3, &Bytes::new()), Err(Broken));
    }
}
