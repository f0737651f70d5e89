//! What each close code and refusal means, and what to change.

use super::{CloseReason, RefusalReason};

/// A reason in plain words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meaning {
    /// What happened, and who did it.
    pub(crate) what: &'static str,
    /// What to change, or why there is nothing to change.
    pub(crate) remedy: &'static str,
}

/// All reasons by their names, first those of closes.
pub(crate) fn meanings() -> impl Iterator<Item = (&'static str, Meaning)> {
    let closes = CloseReason::ALL.map(|reason| (reason.name(), of_close(reason)));
    let refusals = RefusalReason::ALL.map(|reason| (reason.name(), of_refusal(reason)));
    closes.into_iter().chain(refusals)
}

/// The meaning of a reason, by its name.
#[must_use]
pub(crate) fn meaning_of(name: &str) -> Option<Meaning> {
    meanings().find(|(known, _)| *known == name).map(|(_, meaning)| meaning)
}

fn of_close(reason: CloseReason) -> Meaning {
    let (what, remedy) = match reason {
        CloseReason::ClientClosed(_) => (
            "The client closed the connection itself and said so. Codes 1000 and 1001 are a normal end: the page was left, or the app called `disconnect()`.",
            "Nothing on the server. Codes from 3000 on are the application's own: look for the code in the client's program.",
        ),
        CloseReason::ConnectionLost => (
            "The connection ended without a goodbye: the client crashed or lost its network, or something between it and the server cut the connection.",
            "A few are normal, above all on mobile networks. If many end after the same time, raise the idle timeout of the proxy or load balancer above the client's heartbeat (30 s in phoenix.js).",
        ),
        CloseReason::NotPolled => (
            "The long-poll client sent no poll for one and a half windows, so its session ended: the page was left, or the client lost its network.",
            "A few are normal. If clients come back at once, a proxy delays their polls: raise its timeout above `window_ms` in `[mounts.longpoll]`.",
        ),
        CloseReason::ProtocolError => (
            "The client broke the rules of WebSocket (RFC 6455). The detail says which rule.",
            "Correct the client or its WebSocket library. A proxy that changes frames is another possible cause.",
        ),
        CloseReason::InvalidText => (
            "The client sent text that is not UTF-8, or a compressed message that cannot be inflated.",
            "Correct the client: send binary data as binary frames (protocol version 2.0.0).",
        ),
        CloseReason::MessageTooLarge => (
            "The client sent a message longer than `[limits] max_message_bytes`.",
            "Send less per message, or raise `[limits] max_message_bytes`.",
        ),
        CloseReason::Transport(_) => (
            "A transport of the program that embeds Bennu closed the connection.",
            "Look for the code in that program.",
        ),
        CloseReason::Undecodable => (
            "The client sent a frame that is no message of its protocol version.",
            "Make the client's serializer match the `vsn` in its address: arrays for 2.0.0, objects for 1.0.0.",
        ),
        CloseReason::RateLimited => (
            "The client went on sending more than `[limits.client]` allows: it had more than `max_refusals` answers `rate limited` in a minute. The detail is the last limit that it was beyond.",
            "If the client is yours, let it obey `retry_after_ms` of the answer, or raise that limit in `[limits.client]`. Otherwise it is abuse: look at its address and socket id.",
        ),
        CloseReason::Idle => (
            "The client sent nothing, not even a heartbeat, for `[limits] idle_timeout_ms`.",
            "Let the client send heartbeats (phoenix.js does, every 30 s), or raise `[limits] idle_timeout_ms`. A browser slows timers in tabs in the background.",
        ),
        CloseReason::UnfinishedMessage => (
            "The client began a message and did not finish it within `[limits] message_timeout_ms`.",
            "The client's network is slow or its message is large: send less per message, or raise `[limits] message_timeout_ms`.",
        ),
        CloseReason::UnfinishedTotal => (
            "All clients together had sent more unfinished messages than `[limits] max_inbound_total_bytes` allows, and this client one of the largest.",
            "Raise `[limits] max_inbound_total_bytes` if the machine has the memory, or lower `max_message_bytes`.",
        ),
        CloseReason::TooSlow => (
            "The client read more slowly than its topics push: more than `[limits] max_outbound_bytes` waited for it. It may come back.",
            "Push less, or list events that a newer one can replace in `replaceable` of the route. Raise `[limits] max_outbound_bytes` if short bursts are the cause.",
        ),
        CloseReason::NotReading => (
            "The client read nothing for `[limits] idle_timeout_ms` although messages waited for it. The server cut it off without a close frame.",
            "The client hangs, or its network is gone. If it is slow only for a while, raise `[limits] idle_timeout_ms`.",
        ),
        CloseReason::UnsentTotal => (
            "More than `[limits] max_outbound_total_bytes` waited for all clients together, and much of it for this one. The server cut it off without a close frame.",
            "Push less, use `replaceable`, or raise `[limits] max_outbound_total_bytes` if the machine has the memory.",
        ),
        CloseReason::TokenExpired => (
            "The client's token expired, and the client had shown no new one.",
            "Let the client send a new token in time (the event `access_token`), or connect again with one. See `on_expiry` of the mount's `auth`.",
        ),
        CloseReason::Disconnected => (
            "A plugin sent `disconnect` to the client's socket id. If the client was only just connecting, it may have been a backend.",
            "This is on purpose, for example after a logout. Look for `disconnect` in the plugins.",
        ),
        CloseReason::DisconnectedByBackend => (
            "A backend sent `disconnect` to the client's socket id through the API (or somebody ran `bennu disconnect`).",
            "This is on purpose, for example after a logout. Look for `disconnect` in the backend.",
        ),
        CloseReason::DisconnectedByOperator => (
            "An operator disconnected the client, on the dashboard or by `DELETE /connections` of the admin listener.",
            "This is on purpose. The log says who did it: look for `clients disconnected by an operator`.",
        ),
        CloseReason::ServerRestarts => (
            "An operator stopped or restarted the server, which closed its connections in batches. Clients come back by themselves.",
            "Nothing. `[server] drain_batch_size` and `drain_batch_interval_ms` set how fast it goes.",
        ),
    };
    Meaning { what, remedy }
}

fn of_refusal(reason: RefusalReason) -> Meaning {
    let (what, remedy) = match reason {
        RefusalReason::Full => (
            "The server had `[limits] max_connections` connections already.",
            "Raise `[limits] max_connections` and the limit of open files (`bennu check` says what it allows), or add a server.",
        ),
        RefusalReason::AddressFull => (
            "The client's address had as many connections, or as many connected clients, as one address may have. The detail is the setting. One network of IPv6 (/64) counts as one address.",
            "If many people share the address, raise the setting in `[limits.address]`, or add the address to `[limits] exempt`. If it is the address of your proxy, add that to `[proxies] trusted`.",
        ),
        RefusalReason::TooManyConnects => (
            "More clients of this address have connected in a short time than `[limits.address] connects_per_s` allows. Clients come back by themselves.",
            "A few after a restart are normal. If many people share the address, raise `connects_per_s` or `burst_s` in `[limits.address]`. If it is the address of your proxy, add that to `[proxies] trusted`.",
        ),
        RefusalReason::TooManyRequests => (
            "The client's address has sent more requests in a short time than `[limits.address] requests_per_s` allows. Clients come back by themselves.",
            "If many people share the address, raise `requests_per_s` or `burst_s` in `[limits.address]`. If it is the address of your proxy, add that to `[proxies] trusted`.",
        ),
        RefusalReason::Stopping => (
            "The server was stopping. Clients come back by themselves.",
            "Nothing, unless the server does not start again. Behind a load balancer, use `/ready` as the health check.",
        ),
        RefusalReason::NoMount => (
            "The client asked for a path where nothing is served. The detail is the path.",
            "Correct the address in the client, or add a `[[mounts]]` with that path: `/socket` serves `/socket/websocket` and `/socket/longpoll`.",
        ),
        RefusalReason::Tls => (
            "The TLS handshake failed: the client speaks no TLS, does not trust the certificate, or has no version in common with the server. The detail says which.",
            "If the client does not trust the certificate: `cert_file` must hold the whole chain, and the name in the address must be in it. Health checks that open a connection and close it are harmless. Clients without TLS need another listener.",
        ),
        RefusalReason::Proxy => (
            "The listener has `proxy_protocol = true`, and the connection did not begin with such a header, or came from an address that is not trusted. The detail says which.",
            "Add the address of the proxy to `[proxies] trusted`, and let the proxy send the header (`send-proxy` in HAProxy, `proxy_protocol on` in the stream part of nginx). Clients without a proxy need another listener.",
        ),
        RefusalReason::BadHttp => (
            "What came was not HTTP. Often it is TLS: `wss://` or `https://` at a port without TLS.",
            "Use `ws://` or `http://` at this port, or add one with TLS to `[[listeners]]`.",
        ),
        RefusalReason::RequestTimeout => (
            "The client connected and sent no whole request within `[limits] header_timeout_ms`.",
            "A few are normal: browsers open spare connections, and port scanners do this. Raise `[limits] header_timeout_ms` for very slow networks.",
        ),
        RefusalReason::Ambiguous => (
            "A proxy and the server could read the request in two ways, so the server did not read it at all. The detail says why.",
            "Correct the client or the proxy: one `Host` header, one of each other header, and one length.",
        ),
        RefusalReason::Origin => (
            "The page's `Origin` is not allowed at this mount. The detail is the origin.",
            "If the page is yours, add its origin to `check_origin` of the mount, or set `[server] url_host` to its host. If a plugin checks origins, change the plugin.",
        ),
        RefusalReason::Method => (
            "The request was not a GET (or POST, for long polling).",
            "Correct the client; a WebSocket begins with GET.",
        ),
        RefusalReason::Query => (
            "The query of the address could not be read.",
            "Correct how the client encodes its params.",
        ),
        RefusalReason::Subprotocol => (
            "The client offered WebSocket subprotocols, and the mount supports none of them.",
            "Add the client's subprotocol to `subprotocols` of the mount. For a token in the subprotocol, set `auth_token = true`.",
        ),
        RefusalReason::AuthToken => (
            "The client's auth token is not text in UTF-8 (over WebSocket in base64).",
            "Correct the client; phoenix.js encodes the token that its option `authToken` has.",
        ),
        RefusalReason::Vsn => (
            "The mount does not speak the protocol version (`vsn`) that the client asked for. The detail names both.",
            "Change `vsn` in the client, or `serializers` of the mount.",
        ),
        RefusalReason::Token => (
            "The client showed no token, or none that the mount's `auth` accepts. The detail says what is wrong with it.",
            "Correct how the client gets its token, or the keys and rules in `auth` of the mount. If the keys are not there yet, look for `keys cannot be fetched` in the log.",
        ),
        RefusalReason::Plugin => (
            "The connect handler of the plugin refused the client. The detail names the plugin.",
            "Look at the params (a line `connect` in the log has them, without secrets) and at `connect` in the plugin.",
        ),
        RefusalReason::SocketId => (
            "A backend has disconnected the client's socket id and asked the server to refuse it for a while (`refuse_ms`): the detail is the socket id. Or the socket id is longer than `max_topic_bytes`: the detail says so.",
            "Nothing, if a backend asked for it: it ends by itself. Otherwise give shorter socket ids.",
        ),
        RefusalReason::PluginCrashed => (
            "The connect handler of the plugin panicked.",
            "Look for `plugin panicked` in the log, and correct the plugin.",
        ),
        RefusalReason::PluginUnavailable => (
            "The plugin that decides who may connect was not in service, or was just being replaced. The client was told to come back.",
            "`bennu plugins` shows whether it is in service, and if not, why.",
        ),
        RefusalReason::PluginOverloaded => (
            "Too many clients waited for the connect handler. The client was told to come back.",
            "Make the handler faster, give the plugin more `shards`, or raise its `max_mailbox_events`.",
        ),
        RefusalReason::PluginTimeout => (
            "The connect handler did not answer within `[limits] connect_timeout_ms`.",
            "Make the handler faster; it may wait for something outside. Or raise `[limits] connect_timeout_ms`.",
        ),
        RefusalReason::NotWebSocket => (
            "The request had not the headers of a WebSocket: somebody opened the address in a browser, or a proxy removed them.",
            "Let the proxy pass `Connection: upgrade` and `Upgrade: websocket` on, by HTTP/1.1.",
        ),
        RefusalReason::WebSocketVersion => (
            "The client asked for another version of WebSocket than 13.",
            "Update the client's WebSocket library.",
        ),
        RefusalReason::HungUp => (
            "The client was gone before its connection was open.",
            "A few are normal. If many: the connect handler may be slower than the client's timeout (10 s in phoenix.js).",
        ),
        RefusalReason::System => (
            "The operating system did not give what the connection needs. The log says what.",
            "Look for `cannot poll a connection` in the log; usually the process is out of memory or descriptors.",
        ),
    };
    Meaning { what, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema;

    #[test]
    fn every_reason_is_explained_where_operators_look() {
        let guide = include_str!("../../../docs/operating.md");
        for (name, Meaning { what, remedy }) in meanings() {
            let begins = format!("| `{name}` |");
            let row = guide.lines().find(|line| line.starts_with(&begins));
            let row = row.unwrap_or_else(|| panic!("host/docs/operating.md has no row for {name}"));
            assert!(
                row.ends_with(&format!("| {what} | {remedy} |")),
                "{name} is explained otherwise:\n{row}"
            );
        }
    }

    #[test]
    fn a_setting_that_is_advised_exists() {
        let schema = schema().to_string();
        for (name, meaning) in meanings() {
            let words = [meaning.what, meaning.remedy].join(" ");
            let quoted = words.split('`').skip(1).step_by(2);
            let is_setting = |text: &&str| text.starts_with('[') && text.contains("] ");
            for setting in quoted.filter(is_setting) {
                let key = setting.split("] ").nth(1).expect("a key");
                assert!(schema.contains(&format!("\"{key}\"")), "{name} advises {setting}");
            }
        }
    }
}
