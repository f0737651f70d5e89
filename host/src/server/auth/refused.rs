//! Why a token is refused.

use bennu_wire::message::reason;

/// Why a client may not connect, or may not go on with a new token. Holds no part of the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The mount wants a token.
    #[error("there is no token in any place that `from` names")]
    Missing,
    /// It was not read.
    #[error("the token is longer than `max_token_bytes`")]
    TooLong,
    /// It is no token.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// The mount takes no tokens of this kind.
    #[error("the mount takes no token of this kind: see `jwt` and `phoenix_token`")]
    Kind,
    /// The mount does not take it.
    #[error("the token's algorithm is not in `algorithms`")]
    Algorithm,
    /// No key has the `kid` of the token, or is for its algorithm.
    #[error("no key fits the token's `kid` and `alg`")]
    UnknownKey,
    /// It was signed with another key, or changed.
    #[error("the signature does not fit")]
    Signature,
    /// It would be good for ever.
    #[error("the token has no `exp`")]
    NoExpiry,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time is yet to come.
    #[error("the token is not valid yet (`nbf`)")]
    NotYet,
    /// Another one made it.
    #[error("the token's `iss` is not in `issuer`")]
    Issuer,
    /// It is for another one.
    #[error("the token's `aud` is not in `audience`")]
    Audience,
    /// The socket id needs it.
    #[error("the token has no claim `{0}`, which `socket_id` needs")]
    Claim(String),
    /// Nobody could close its connections.
    #[error("the socket id of the token is longer than `max_topic_bytes`")]
    LongId,
    /// A backend keeps it away.
    #[error("a backend has disconnected the socket id of the token, and refuses it for a while (`refuse_ms`)")]
    KeptAway,
    /// It would make another client of the connection.
    #[error("the token is for another `sub` or socket id than the connection")]
    OtherClient,
    /// The keys were not fetched yet.
    #[error("the keys are not there yet")]
    NoKeys,
}

/// All words of [`Refused::label`].
pub(crate) const LABELS: [&str; 17] = [
    "missing",
    "too_long",
    "malformed",
    "kind",
    "algorithm",
    "unknown_key",
    "signature",
    "no_exp",
    "expired",
    "not_yet_valid",
    "issuer",
    "audience",
    "claim",
    "socket_id_too_long",
    "socket_id_refused",
    "other_client",
    "no_keys",
];

impl Refused {
    /// Its word in the metric `bennu_auth_refused_total`.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLong => "too_long",
            Self::Malformed(_) => "malformed",
            Self::Kind => "kind",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::NoExpiry => "no_exp",
            Self::Expired => "expired",
            Self::NotYet => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claim(_) => "claim",
            Self::LongId => "socket_id_too_long",
            Self::KeptAway => "socket_id_refused",
            Self::OtherClient => "other_client",
            Self::NoKeys => "no_keys",
        }
    }

    /// What a connected client is told of a new token. A forger learns nothing by it.
    pub(crate) fn told(&self) -> &'static str {
        match self {
            Self::Expired => reason::TOKEN_EXPIRED,
            Self::OtherClient => reason::OTHER_CLIENT,
            Self::NoKeys => reason::UNAVAILABLE,
            _ => reason::INVALID_TOKEN,
        }
    }
}
