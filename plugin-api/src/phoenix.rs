//! For authors who know Phoenix: each of its terms, and its place here. (A page of documentation, with nothing to call.)
//!
//! Clients do not change: phoenix.js and every other client for Phoenix Channels works as it does there. The server side uses the
//! same words. A **plugin** is a library with one channel module; the host loads and replaces it while clients stay connected.
//!
//! The largest difference: **a topic has state, and handles its events in order.** In Phoenix each client's channel is a process,
//! and shared state lives elsewhere (in a GenServer, ETS, a database). Here a topic handles one event at a time, and each callback
//! gets both its member (`&mut self`, the assigns) and the state that the topic's members share ([`Channel::Shared`]). There is no
//! lock, and no call to another process.
//!
//! # Phoenix.Channel
//!
//! | Phoenix | Here | What differs |
//! |---|---|---|
//! | `use Phoenix.Channel` | `impl` [`Channel`] `for …`, [`export_plugin!`] | a plugin has one channel |
//! | `join/3` | [`Channel::join`], [`Context::topic`] | the default lets everybody join |
//! | `{:ok, socket}`, `{:ok, reply, socket}` | `Join::accept(member)`, `Join::reply(member, reply)` ([`JoinExt`]) | |
//! | `{:error, reason}` | `Err(Refusal::reason("…"))`, `Join::refuse(json!({ … }))` | `params.parse()?` refuses invalid params |
//! | `handle_in/3` | [`Channel::handle_in`] | an unhandled event gets an `error` reply; the channel goes on |
//! | `handle_in("new_msg", %{"body" => body}, socket)` | [`Payload::parse_as`], [`Payload::parse`] | |
//! | `{:reply, :ok, socket}`, `{:reply, {:ok, map}, socket}` | `Ok(Reply::ok())`, `Ok(Reply::ok_with(map))` ([`Reply`]) | |
//! | `{:reply, {:error, map}, socket}` | `Err(Refusal::new(map))`, `Ok(Reply::error(map))` | |
//! | `{:noreply, socket}` | `Ok(Reply::none())` | |
//! | `{:stop, reason, socket}` | [`Context::stop`] with [`Stop`] | the callback returns as usual; its reply goes out first |
//! | `{:reply, {:ok, {:binary, bytes}}, socket}` | `Reply::ok_with(Binary(&bytes))` ([`Binary`]) | |
//! | `handle_out/3`, `intercept/1` | [`Channel::handle_out`], [`Channel::INTERCEPTS`] | if one member panics in it, the others still get the event |
//! | `handle_info/2` | [`Channel::handle_info`], [`Channel::handle_topic_info`] | a message is data, a name and a payload, and so survives a reload |
//! | `handle_call/3`, `handle_cast/2` | [`Channel::handle_call`], [`Context::send_to`] | a call comes from a backend, by HTTP; a cast from another topic, to `handle_topic_info` |
//! | `terminate/2` | [`Channel::terminate`] with [`Reason`] | always called; no exits to trap |
//! | `code_change/3` | [`Channel::migrate`], [`Channel::migrate_shared`], [`Channel::restored`] | see [`state`] |
//! | a process's state saved in `terminate/2` | the setting `durability`, [`Channel::closing`], [`Context::forget`](crate::Context::forget) | without code of yours |
//! | `push/3` | [`Context::push`]; to another member: [`Context::push_to`] | not in `join`: the client has not joined yet |
//! | `broadcast/3`, `broadcast!/3` | [`Context::broadcast`] | goes out when the callback returns, and not at all if it panics |
//! | `broadcast_from/3` | [`Context::broadcast_from`] | |
//! | `socket_ref/1`, `reply/2` | [`Context::later`], [`Context::complete`], [`Remote::complete`] | a [`Later`] can be kept in state |
//! | `Process.send_after/3`, `send(self(), …)` | [`Context::send_after`], [`Context::send`], [`Context::topic_send_after`] | |
//! | `Process.cancel_timer/1` | [`Context::cancel`] | |
//! | `Task.start/1` | [`Context::spawn`] | its [`Remote`] reaches the member |
//! | `Task.async/1`, a late `reply/2` from it | with the feature `async`: `cx.reply_async(…)`, `cx.join_async(…)`, `cx.spawn_async(…)` | runs beside the callbacks, ends with its generation |
//! | `assign/3`, `socket.assigns` of a channel | the fields of your struct, `&mut self` | |
//! | `:hibernate_after`, `:log_join`, `:log_handle_in` | none: a member is as large as its struct; the host's settings decide what it logs | |
//! | `:telemetry.span/3`, OpenTelemetry in a handler | [`Context::span`] | the host sends it, in the trace of the client |
//! | `Logger` | [`tracing`](https://docs.rs/tracing) macros | each line has the plugin, the topic and the socket id |
//!
//! # Phoenix.Socket and Phoenix.Endpoint
//!
//! | Phoenix | Here | What differs |
//! |---|---|---|
//! | `socket "/socket", UserSocket` | `[[mounts]]` in `bennu.toml` | |
//! | `channel "room:*", RoomChannel` | `[[routes]]` in `bennu.toml` | replaced while the server runs; the first that matches wins |
//! | `channel …, assigns: %{}` | `assigns` of a route, [`Context::route`] | |
//! | `connect/3` | [`Connect::connect`] | without a handler everybody may connect; it may answer later |
//! | `{:ok, assign(socket, …)}` | `Ok(Connection::accept().assigns(json!({ … })))` ([`Connection`]), [`Context::socket_assigns`] | they never change |
//! | `:error`, `{:error, reason}` | `Err(Denial::status(403))` ([`Denial`]) | any status and body |
//! | `id/1` | `Connection::accept().id("user:1")`, [`Context::socket_id`] | |
//! | `Phoenix.Token.verify/4` in `connect/3` | `phoenix_token` in `[mounts.auth]` of `bennu.toml`; [`Context::claims`], [`ConnectRequest::claims`] | the host does it, before the handler; a connection ends when its token expires |
//! | `Phoenix.Token.sign/4` | none: the Phoenix app signs | what it signs becomes the claim `sub`, or the claims |
//! | a new token for an open socket | the event `access_token` | the claims change under way |
//! | `connect_info` | [`ConnectRequest`] | each mount selects it, in the same words |
//! | `Endpoint.broadcast/3` to another topic | [`Context::broadcast_to`] | whichever plugin serves it |
//! | `Endpoint.broadcast/3` from a controller, a job, another node | `POST /api/broadcast` of `bennu serve`, `bennu publish` | the answer says how many heard it; a topic that no route takes is an error |
//! | `Endpoint.broadcast(id, "disconnect", %{})` | [`Context::disconnect`]; from outside `POST /api/disconnect`, `bennu disconnect` | from outside also for a while: `refuse_ms` |
//! | `Endpoint.subscribe/1` | none: a topic hears its own broadcasts by intercepting them | |
//! | `check_origin` | the same word in `bennu.toml`, or [`Connect::check_origin`] | |
//!
//! # Phoenix.Presence
//!
//! | Phoenix | Here | What differs |
//! |---|---|---|
//! | `use Phoenix.Presence`, its child spec | none: every topic has a presence list | |
//! | `track/3` after `send(self(), :after_join)`, pushing `presence_state` | [`Context::track`], in `join` | the host sends `presence_state` after the reply |
//! | `track/4` of any pid and topic | none: a plugin tracks members on their own topic | |
//! | `update/3` | [`Context::update`] | takes the new meta; read the old one with [`Context::presence`] |
//! | `untrack/2` | [`Context::untrack`] | |
//! | `list/1` | [`Context::presences`]; to push it: [`Context::push_presence`] | the list of this node |
//! | `MyAppWeb.Presence.list(topic)` from outside | `GET /api/topics/TOPIC`, `bennu topics TOPIC` | the same shape, under `presence` |
//! | `get_by_key/2` | [`Context::presence`] | |
//! | `fetch/2` | [`Context::describe`] | called once for a key; the host keeps it |
//! | `init/1`, `handle_metas/4` | none: intercept `presence_diff` | |
//!
//! # Phoenix.ChannelTest
//!
//! | Phoenix | Here ([`mod@test`]) | What differs |
//! |---|---|---|
//! | `use MyAppWeb.ChannelCase`, `@endpoint` | [`Server::start`] | runs on the thread of the test |
//! | `socket/3` | [`Server::client`], [`Client::id`], [`Client::assigns`], [`Client::claims`] | |
//! | `connect/3` | [`Server::connect`] with params or a [`Request`] | |
//! | `join/3`, `subscribe_and_join/3` | [`Server::join`], [`Client::join`]; [`Server::try_join`] for a refusal | any number of clients in one test |
//! | `subscribe_and_join!/3` | [`Server::join`] | |
//! | `push/3` | [`Membership::push`] | the plugin has handled it when it returns |
//! | `assert_reply/4` | [`Pushed::assert_reply`] | |
//! | `refute_reply/4` | [`Pushed::refute_reply`] | does not wait |
//! | `assert_push/3`, `refute_push/3` | [`Membership::assert_push`], [`Membership::refute_push`] | for one client, not for the test process; includes broadcasts that reach it |
//! | `assert_broadcast/3`, `refute_broadcast/3` | [`Membership::assert_broadcast`], [`Membership::refute_broadcast`] | |
//! | a pattern with variables | [`like`](test::like), and the returned payload; `json!` compares the whole payload | |
//! | `broadcast_from/3` of the test | [`Server::broadcast`] | |
//! | `leave/1`, `close/2` | [`Membership::leave`], [`Membership::close`] | |
//! | `assert_receive` with a timeout, `:timer.sleep` | [`Server::advance`] | the test advances the clock |
//! | `Process.unlink` and a crash | [`Server::inject_panic`], [`Membership::assert_error`] | |
//! | none | [`Membership::assert_presence`], [`Server::reload`], [`Server::restore`], [`Server::built`], [`Server::shared`] | |
//!
//! # Terms
//!
//! | Phoenix | Here |
//! |---|---|
//! | channel process | a member: a value on its topic's shard, a thread of the plugin |
//! | a crash, `phx_error`, the client rejoins | a panic, `phx_error`, the client rejoins; other members and the topic's state stay |
//! | supervision | the host: if new code panics too often, it returns to the previous code |
//! | hot code upgrade | saving the file (`bennu dev`), or replacing the library (`bennu serve`) |
//! | PubSub, `fastlane` | the same, in the host; a broadcast that no plugin intercepts does not enter one |
//! | `config/*.exs` | `bennu.toml`; `settings` of a plugin are its [`Plugin::Settings`] |
//! | `mix phx.gen.channel Room` | `bennu new room` |
//! | `mix phx.server` | `bennu dev`, `bennu serve` |
//! | clustering | none yet: one node |

#[allow(unused_imports, reason = "the page links to them")]
use crate::{
    Binary, Channel, Connect, ConnectRequest, Connection, Context, Denial, JoinExt, Later, Payload, Plugin, Reason,
    Remote, Reply, Stop, export_plugin, state,
    test::{self, Client, Membership, Pushed, Request, Server},
};
