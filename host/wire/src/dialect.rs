//! In which rules the dialects differ. How they write messages is a matter of their [serializers](crate::serializer).

use crate::message::Payload;

/// Which rules a client's channels follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Phoenix 1.7 and 1.8, protocol versions 1 and 2.
    Modern,
    /// Phoenix 0.11.
    Phoenix011,
}

impl Dialect {
    /// Whether the server answers a message whose topic is not joined or has no route.
    #[must_use]
    pub fn answers_unmatched(self) -> bool {
        self == Self::Modern
    }

    /// Status and response for a join that was refused with this response.
    #[must_use]
    pub fn refusal(self, response: &Payload) -> (&'static str, Payload) {
        match self {
            Self::Modern => ("error", response.clone()),
            Self::Phoenix011 => ("ignore", Payload::EMPTY),
        }
    }

    /// Whether the client can tell one join of a topic from the next. If not, a channel that a new join replaces ends
    /// silently: the client would take its `phx_close` for that of the new channel.
    #[must_use]
    pub fn names_joins(self) -> bool {
        self == Self::Modern
    }

    /// Whether `phx_close` follows what `terminate` pushes. If not, it precedes it.
    #[must_use]
    pub fn closes_last(self) -> bool {
        self == Self::Phoenix011
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_join_is_ignored_in_phoenix_0_11_and_explained_today() {
        let reason = Payload::reason("full");
        assert_eq!(Dialect::Phoenix011.refusal(&reason), ("ignore", Payload::EMPTY));
        assert_eq!(Dialect::Modern.refusal(&reason), ("error", reason));
    }
}
