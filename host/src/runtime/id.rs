//! The number of a member. It contains the I/O thread and the slot of the member's connection, so no map from one to the other is
//! needed.

use serde::{Deserialize, Serialize};

/// One client's membership of one topic, as the plugin sees it (`member` in the ABI). Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct MemberId(u64);

/// How many sockets one I/O thread can own.
pub(crate) const MAX_SOCKETS: usize = 1 << 24;

const fn pack(thread: u8, slot: u32, serial: u32) -> u64 {
    // Threads count from 1 here, so that no number is 0.
    ((thread as u64 + 1) << 56) | ((slot as u64 & 0xff_ffff) << 32) | serial as u64
}

impl MemberId {
    /// Below all others.
    pub(crate) const FIRST: Self = Self(0);
    /// Above all others.
    pub(crate) const LAST: Self = Self(u64::MAX);

    /// Packs the place of its socket. `serial` distinguishes it from earlier members in the same slot.
    #[must_use]
    pub(crate) const fn new(thread: u8, slot: u32, serial: u32) -> Self {
        Self(pack(thread, slot, serial))
    }

    /// The index of the I/O thread.
    #[must_use]
    pub(crate) const fn thread(self) -> usize {
        (self.0 >> 56) as usize - 1
    }

    /// The index of the socket on that thread.
    #[must_use]
    pub(crate) const fn slot(self) -> usize {
        ((self.0 >> 32) & 0xff_ffff) as usize
    }

    /// The number in the ABI.
    #[must_use]
    pub(crate) const fn number(self) -> u64 {
        self.0
    }

    /// Reads a number of the ABI. `None` if no member can have it.
    #[must_use]
    pub(crate) const fn from_number(number: u64) -> Option<Self> {
        if number >> 56 == 0 { None } else { Some(Self(number)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_tells_where_its_socket_is() {
        let id = MemberId::new(3, 0xab_cdef, 7);
        assert_eq!((id.thread(), id.slot()), (3, 0xab_cdef));
        assert_eq!(MemberId::from_number(id.number()), Some(id));
        assert_eq!(MemberId::from_number(0), None);
    }
}
