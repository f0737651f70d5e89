//! Why a connection ends: the whole list, with the close code, the text in the close frame, and who ended it.

use bennu_plugin::abi::reason as end;

use crate::server::transport::websocket::frame::close_code;

/// Reported where a WebSocket ended without a close frame. Never sent.
const ABNORMAL: u16 = 1006;

/// Why a connection, or a long-poll session, ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The client said goodbye with this code.
    ClientClosed(u16),
    /// The connection is gone without a goodbye.
    ConnectionLost,
    /// No poll came for one and a half windows.
    NotPolled,
    /// The client broke RFC 6455.
    ProtocolError,
    /// Text that is not UTF-8, or a compressed message that cannot be inflated.
    InvalidText,
    /// A message is longer than `max_message_bytes`.
    MessageTooLarge,
    /// A transport of the embedding program has closed with this code.
    Transport(u16),
    /// A frame is not a message of the client's protocol version.
    Undecodable,
    /// The client went on beyond its limits: it had more than `max_refusals` in a minute.
    RateLimited,
    /// The client was silent for `idle_timeout_ms`.
    Idle,
    /// A message took longer than `message_timeout_ms`.
    UnfinishedMessage,
    /// The clients together have sent too much of messages that are not complete, and this one much of it.
    UnfinishedTotal,
    /// More than `max_outbound_bytes` would wait for the client.
    TooSlow,
    /// The client took nothing of what waits for it for `idle_timeout_ms`.
    NotReading,
    /// More than `max_outbound_total_bytes` would wait for all clients, and much of it for this one.
    UnsentTotal,
    /// The client's token has expired, and it has shown no other.
    TokenExpired,
    /// A plugin sent `disconnect` to its socket id.
    Disconnected,
    /// A backend sent `disconnect` to its socket id.
    DisconnectedByBackend,
    /// An operator closed the connection at the admin listener.
    DisconnectedByOperator,
    /// The server stops.
    ServerRestarts,
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ender {
    /// The client itself.
    Client,
    /// Bennu, because of a rule or a limit.
    Server,
    /// A plugin, by a `disconnect`.
    Plugin,
    /// Nobody: the network, or a client that is gone.
    Network,
    /// Whoever stops the server or disconnects a client, which may be a backend.
    Operator,
}

impl CloseReason {
    /// All of them, those with a code of the client's with the usual one.
    pub(crate) const ALL: [Self; 20] = [
        Self::ClientClosed(1000),
        Self::ConnectionLost,
        Self::NotPolled,
        Self::ProtocolError,
        Self::InvalidText,
        Self::MessageTooLarge,
        Self::Transport(close_code::INTERNAL_ERROR),
        Self::Undecodable,
        Self::RateLimited,
        Self::Idle,
        Self::UnfinishedMessage,
        Self::UnfinishedTotal,
        Self::TooSlow,
        Self::NotReading,
        Self::UnsentTotal,
        Self::TokenExpired,
        Self::Disconnected,
        Self::DisconnectedByBackend,
        Self::DisconnectedByOperator,
        Self::ServerRestarts,
    ];

    /// The reason for which a transport wants to close with this code.
    #[must_use]
    pub(crate) fn of_transport(code: u16) -> Self {
        match code {
            close_code::PROTOCOL_ERROR => Self::ProtocolError,
            close_code::INVALID_PAYLOAD => Self::InvalidText,
            close_code::TOO_BIG => Self::MessageTooLarge,
            close_code::TRY_AGAIN_LATER => Self::TooSlow,
            other => Self::Transport(other),
        }
    }

    /// The word for it in logs, metrics and `/closes`. Stable.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ClientClosed(_) => "client_closed",
            Self::ConnectionLost => "connection_lost",
            Self::NotPolled => "not_polled",
            Self::ProtocolError => "protocol_error",
            Self::InvalidText => "invalid_text",
            Self::MessageTooLarge => "message_too_large",
            Self::Transport(_) => "transport",
            Self::Undecodable => "undecodable_message",
            Self::RateLimited => "rate_limited",
            Self::Idle => "idle",
            Self::UnfinishedMessage => "unfinished_message",
            Self::UnfinishedTotal => "unfinished_total",
            Self::TooSlow => "too_slow",
            Self::NotReading => "not_reading",
            Self::UnsentTotal => "unsent_total",
            Self::TokenExpired => "token_expired",
            Self::Disconnected => "disconnected",
            Self::DisconnectedByBackend => "disconnected_by_backend",
            Self::DisconnectedByOperator => "disconnected_by_operator",
            Self::ServerRestarts => "server_restarts",
        }
    }

    /// The code that a WebSocket client sees. 1006: no close frame was sent.
    #[must_use]
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::ClientClosed(code) | Self::Transport(code) => code,
            Self::ConnectionLost | Self::NotPolled | Self::NotReading | Self::UnsentTotal => ABNORMAL,
            Self::ProtocolError | Self::Idle | Self::UnfinishedMessage => close_code::PROTOCOL_ERROR,
            Self::InvalidText => close_code::INVALID_PAYLOAD,
            Self::RateLimited => close_code::POLICY_VIOLATION,
            Self::MessageTooLarge => close_code::TOO_BIG,
            Self::Undecodable => close_code::INTERNAL_ERROR,
            Self::UnfinishedTotal | Self::TooSlow => close_code::TRY_AGAIN_LATER,
            Self::TokenExpired => close_code::UNAUTHORIZED,
            Self::Disconnected | Self::DisconnectedByBackend | Self::DisconnectedByOperator => close_code::GOING_AWAY,
            Self::ServerRestarts => close_code::RESTART,
        }
    }

    /// The text in the close frame, where the transport brings none.
    #[must_use]
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable message",
            Self::RateLimited => "rate limited",
            Self::Idle => "idle",
            Self::UnfinishedMessage => "unfinished message",
            Self::UnfinishedTotal => "too many unfinished messages",
            Self::TooSlow => "too slow",
            Self::TokenExpired => "token expired",
            Self::Disconnected | Self::DisconnectedByBackend | Self::DisconnectedByOperator => "disconnected",
            Self::ServerRestarts => "server restarts",
            Self::ClientClosed(_)
            | Self::ConnectionLost
            | Self::NotPolled
            | Self::ProtocolError
            | Self::InvalidText
            | Self::MessageTooLarge
            | Self::Transport(_)
            | Self::NotReading
            | Self::UnsentTotal => "",
        }
    }

    /// Who ended the connection.
    #[must_use]
    pub(crate) fn ender(self) -> Ender {
        match self {
            Self::ClientClosed(_) => Ender::Client,
            Self::ConnectionLost | Self::NotPolled => Ender::Network,
            Self::Disconnected => Ender::Plugin,
            Self::DisconnectedByBackend | Self::DisconnectedByOperator | Self::ServerRestarts => Ender::Operator,
            Self::ProtocolError
            | Self::InvalidText
            | Self::MessageTooLarge
            | Self::Transport(_)
            | Self::Undecodable
            | Self::RateLimited
            | Self::Idle
            | Self::UnfinishedMessage
            | Self::UnfinishedTotal
            | Self::TooSlow
            | Self::NotReading
            | Self::UnsentTotal
            | Self::TokenExpired => Ender::Server,
        }
    }

    /// What the plugins of its channels are told.
    #[must_use]
    pub(crate) fn ending(self) -> u32 {
        match self {
            Self::NotPolled => end::INACTIVE,
            Self::Disconnected | Self::DisconnectedByBackend | Self::DisconnectedByOperator => end::DISCONNECTED,
            Self::ServerRestarts => end::DRAINING,
            Self::UnfinishedTotal | Self::TooSlow | Self::NotReading | Self::UnsentTotal => end::OVERLOADED,
            Self::ClientClosed(_)
            | Self::ConnectionLost
            | Self::ProtocolError
            | Self::InvalidText
            | Self::MessageTooLarge
            | Self::Transport(_)
            | Self::Undecodable
            | Self::RateLimited
            | Self::Idle
            | Self::UnfinishedMessage
            | Self::TokenExpired => end::CLOSED,
        }
    }
}

impl Ender {
    /// The word for it in logs and `/closes`. Stable.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Plugin => "plugin",
            Self::Network => "network",
            Self::Operator => "operator",
        }
    }
}
