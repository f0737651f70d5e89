//! The contract between host and plugin: everything that crosses the boundary.
//!
//! All of it is `#[repr(C)]` and plain data. The callee borrows inputs for the length of one call; the caller copies outputs
//! during that call. Nothing that owns memory crosses. A plugin exports one [`Module`] as an `abi_stable` root module. The host
//! passes [`Host`] once, and [`Calls`] with every batch. Within an [`ABI_MAJOR`] these tables never change, and nothing is appended:
//! abi_stable refuses a library whose tables have fewer functions than the host's. Later versions of this crate add kinds of
//! [events](mod@event) and [effects](mod@effect), which the other side may not know.
//!
//! **Threads.** Each function names in brackets the thread that calls it. A *shard* thread belongs to one generation of the
//! plugin and ends before the host closes the library. No plugin code runs on any other thread of the host.
//!
//! **Panics.** Each side catches its own: none of these functions unwinds.
//!
//! Authors do not use this module: `export_plugin!` writes what a plugin needs of it.

#![allow(unsafe_code, reason = "the contract itself: pointers with lengths")]

pub mod effect;
pub mod event;

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_types::VersionStrings;

pub use self::event::callback_name;

/// Changes when something is removed or changes its meaning. The host does not load a plugin with another one.
pub const ABI_MAJOR: u32 = 1;
/// Changes when something is added.
pub const ABI_MINOR: u32 = 7;

/// Bytes that the callee may read until the call returns. `ptr` may dangle if `len` is 0.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct Bytes {
    /// The first byte.
    pub ptr: *const u8,
    /// How many.
    pub len: usize,
}

impl Bytes {
    /// No bytes.
    pub const EMPTY: Self = Self {
        ptr: std::ptr::NonNull::dangling().as_ptr(),
        len: 0,
    };

    /// Lends `bytes` to a call. The caller keeps them alive until it returns.
    #[must_use]
    pub const fn lend(bytes: &[u8]) -> Self {
        Self {
            ptr: bytes.as_ptr(),
            len: bytes.len(),
        }
    }

    /// The bytes.
    ///
    /// # Safety
    ///
    /// `ptr` points to `len` readable bytes that do not change during `'a`, or `len` is 0.
    #[must_use]
    pub const unsafe fn as_slice<'a>(self) -> &'a [u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}

/// Takes bytes from the callee. The caller copies them at once; several calls append.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Writer {
    /// The caller's own: the first argument of `write`.
    pub cx: *mut (),
    /// Appends bytes. (the thread of the call that it belongs to)
    pub write: unsafe extern "C" fn(cx: *mut (), bytes: Bytes),
}

/// One event. The plugin reads it during [`Module::handle`].
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Event {
    /// One of [`event`](mod@event).
    pub kind: u32,
    /// [`flag::BINARY`]: `payload` is binary, otherwise JSON.
    pub flags: u32,
    /// The host's number for the topic, the same in all generations. 0 if the event is about no topic.
    pub topic: u64,
    /// The host's number for the member, the same in all generations and never used again. 0 if the event is about no member.
    pub member: u64,
    /// The `serial` of the promise that this event answers (`ANSWER`).
    pub token: u64,
    /// By kind.
    pub number: u64,
    /// By kind. UTF-8.
    pub name: Bytes,
    /// By kind. JSON text, or binary with [`flag::BINARY`].
    pub payload: Bytes,
    /// JSON of [`MemberInfo`](crate::wire::MemberInfo), [`ConnectInfo`](crate::wire::ConnectInfo) or
    /// [`OriginInfo`](crate::wire::OriginInfo), or the name of the topic (`CALL`); may be empty.
    pub info: Bytes,
}

/// One effect. The host reads it during [`Calls::effect`].
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Effect {
    /// One of [`effect`](mod@effect).
    pub kind: u32,
    /// [`flag::BINARY`]: `payload` is binary, otherwise JSON.
    pub flags: u32,
    /// The member that it concerns; 0: the topic.
    pub member: u64,
    /// The serial of an earlier promise, or 0.
    pub token: u64,
    /// By kind.
    pub number: u64,
    /// By kind. UTF-8.
    pub name: Bytes,
    /// By kind.
    pub payload: Bytes,
    /// Another topic, for `BROADCAST` and `SEND_TO`; otherwise empty. Presence of another topic is refused
    /// ([`error::MISPLACED`]). UTF-8.
    pub topic: Bytes,
}

/// Bits of `flags`.
pub mod flag {
    /// The payload is binary, not JSON.
    pub const BINARY: u32 = 1;
}

/// Why a member ends.
pub mod reason {
    /// The client left.
    pub const LEFT: u32 = 1;
    /// The connection is gone.
    pub const CLOSED: u32 = 2;
    /// A `disconnect` closed the connections of this socket id.
    pub const DISCONNECTED: u32 = 3;
    /// The long-poll session expired.
    pub const INACTIVE: u32 = 4;
    /// The server is shutting down.
    pub const DRAINING: u32 = 5;
    /// The same client joined the topic again.
    pub const DUPLICATE_JOIN: u32 = 6;
    /// A callback stopped the channel normally.
    pub const NORMAL: u32 = 7;
    /// A callback stopped the channel with `shutdown`.
    pub const SHUTDOWN: u32 = 8;
    /// A callback stopped the channel with a reason of its own, in `name`; its client sees `phx_error`.
    pub const OTHER: u32 = 9;
    /// A callback panicked.
    pub const PANICKED: u32 = 10;
    /// The topic's route leads to another plugin now, or the plugin was replaced without its state.
    pub const REROUTED: u32 = 11;
    /// The channel exceeded a limit of the host.
    pub const OVERLOADED: u32 = 12;
}

/// How one event ended.
pub mod outcome {
    /// Well: the host commits its effects.
    pub const OK: u32 = 0;
    /// The callback panicked: the host drops its effects. `message` is that of the panic.
    pub const PANICKED: u32 = 1;
    /// The plugin could not write or read state. `message` says why.
    pub const FAILED: u32 = 2;
    /// The plugin does not know this kind of event.
    pub const UNKNOWN: u32 = 3;
}

/// What [`Calls::done`] returns.
pub mod go {
    /// Handle the next event.
    pub const ON: u32 = 0;
    /// Return now: the host passes the rest again.
    pub const BACK: u32 = 1;
}

/// What [`Calls::effect`] and the functions of [`Host`] return: a number, or one of these, which are negative.
pub mod error {
    /// The host does not know this kind.
    pub const UNKNOWN: i64 = -1;
    /// Not UTF-8, not JSON, not an object although one is required, or too long.
    pub const INVALID: i64 = -2;
    /// There is no such member, topic, timer or promise, or no longer.
    pub const GONE: i64 = -3;
    /// Presence: this member is already tracked under this key.
    pub const TRACKED: i64 = -4;
    /// Presence: this member is not tracked under this key.
    pub const UNTRACKED: i64 = -5;
    /// A limit of the host is reached.
    pub const LIMIT: i64 = -6;
    /// Not allowed at this point: a second reply, or a push to a member that has not joined.
    pub const MISPLACED: i64 = -7;
    /// A header field of a binary message (its topic, or `name`) has more than 255 bytes. (since 1.2)
    pub const FIELD: i64 = -8;
}

/// What [`Calls::read`] reads.
pub mod read {
    /// The topic's presence list as a JSON object, including the changes of this event.
    pub const PRESENCE: u32 = 1;
    /// The presence under `key` as a JSON object, or [`error::UNTRACKED`](super::error::UNTRACKED). (since 1.2)
    pub const PRESENCE_KEY: u32 = 2;
}

/// The kind of value in a [`Field`]. (since 1.3)
pub mod value {
    /// `text`.
    pub const TEXT: u32 = 1;
    /// `text`, formatted by `Debug` or `Display`: shown without quotes.
    pub const WRITTEN: u32 = 2;
    /// Whether `number` is not 0.
    pub const BOOL: u32 = 3;
    /// The bits of `number`, with a sign.
    pub const I64: u32 = 4;
    /// `number`.
    pub const U64: u32 = 5;
    /// The bits of `number`.
    pub const F64: u32 = 6;
}

/// One field of a [`Record`]. (since 1.3)
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Field {
    /// One of [`value`](mod@value).
    pub kind: u32,
    /// By kind.
    pub number: u64,
    /// The field's name; `message` is the text of the line. UTF-8.
    pub name: Bytes,
    /// By kind. UTF-8.
    pub text: Bytes,
}

/// A line for the log. The host reads it during [`Host::record`]. (since 1.3)
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Record {
    /// 1 error … 5 trace.
    pub level: u32,
    /// The number of fields.
    pub len: usize,
    /// The first field.
    pub fields: *const Field,
    /// The topic that it is about; 0: none.
    pub topic: u64,
    /// The member that it is about; 0: none.
    pub member: u64,
    /// The socket id of its client if the plugin knows it; otherwise empty. UTF-8.
    pub socket: Bytes,
    /// The module of the plugin that wrote it, as log filters name it: `room::history`. UTF-8.
    pub target: Bytes,
}

/// A promise to answer. Plain data: a plugin may store it, also in state that survives a reload.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The topic's number; 0 for a connect.
    pub topic: u64,
    /// What [`effect::LATER`] returned.
    pub serial: u64,
}

/// The host's functions during one [`Module::handle`].
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = CallsRef, prefix_fields = CallsFields)))]
pub struct Calls {
    /// Event `index` of the batch is handled: the host commits its effects. Returns one of [`go`]. (shard)
    pub done: unsafe extern "C" fn(cx: *mut (), index: usize, outcome: u32, message: Bytes) -> u32,
    /// Asks for one effect of the current event. Returns a number, 0, or one of [`error`]. (shard)
    pub effect: unsafe extern "C" fn(cx: *mut (), effect: *const Effect) -> i64,
    /// Reads one of [`read`] of the current topic. Returns 0 or one of [`error`]. (shard)
    #[sabi(last_prefix_field)]
    pub read: unsafe extern "C" fn(cx: *mut (), what: u32, key: Bytes, out: Writer) -> i64,
}

/// The host's functions that any thread of the plugin may call, from `init` until `shutdown` returns.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostRef, prefix_fields = HostFields)))]
pub struct Host {
    /// Keeps a promise. For a reply, `status` and `payload` go to the client. For a join or a connect, `payload` comes back to
    /// the plugin in an `ANSWER`. Returns 0 or one of [`error`]. (any)
    pub complete: unsafe extern "C" fn(cx: *const (), token: Token, flags: u32, status: Bytes, payload: Bytes) -> i64,
    /// Sends the message `name` to `member` of `topic`, or to the topic (0). Returns 0 or one of [`error`]. (any)
    pub send:
        unsafe extern "C" fn(cx: *const (), topic: u64, member: u64, flags: u32, name: Bytes, payload: Bytes) -> i64,
    /// Writes a line to the host's log. `level`: 1 error … 5 trace. (any)
    #[sabi(last_prefix_field)]
    pub log: unsafe extern "C" fn(cx: *const (), level: u32, target: Bytes, message: Bytes),
    /// Whether the log takes lines of this level (1 error … 5 trace) and this target. 0 means no, as long as the generation
    /// lives. (any; since 1.3)
    pub log_enabled: unsafe extern "C" fn(cx: *const (), level: u32, target: Bytes) -> u32,
    /// Writes a line with fields to the host's log. Returns 0 or one of [`error`]. (any; since 1.3)
    pub record: unsafe extern "C" fn(cx: *const (), record: *const Record) -> i64,
    /// This thread panics at `place` (`file:line:column`). Its stack is not unwound yet: the host may take a backtrace.
    /// (any; since 1.3)
    pub panicked: unsafe extern "C" fn(cx: *const (), message: Bytes, place: Bytes),
}

/// What a plugin exports.
///
/// Order of calls: `init` on shard 0; `open` on each shard; `handle` on each, any number of times; `close` on each;
/// `shutdown` on shard 0. Every function except `handle` returns 0, or 1 after writing what went wrong.
///
/// The host abandons a shard that exceeds its deadline. From then on it answers the shard's calls with [`error::GONE`] and
/// [`go::BACK`], and opens another shard with the same index on another thread.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ModuleRef, prefix_fields = ModuleFields)))]
pub struct Module {
    /// Reads `settings` (JSON) as `init` does, without any effect outside the process. On failure writes a
    /// [`SettingsError`](crate::wire::SettingsError) as JSON. (probe)
    pub check: unsafe extern "C" fn(settings: Bytes, error: Writer) -> u32,
    /// Makes the plugin's own value from `settings` (JSON). `host_cx` belongs to `host`. (shard 0)
    pub init: unsafe extern "C" fn(
        host: HostRef,
        host_cx: *const (),
        settings: Bytes,
        plugin: *mut *mut (),
        error: Writer,
    ) -> u32,
    /// Opens a shard; `plugin` is from `init`. (shard)
    pub open: unsafe extern "C" fn(plugin: *mut (), index: u32, shard: *mut *mut (), error: Writer) -> u32,
    /// Handles `len` events in order. Calls `done` after each, and returns as soon as that says [`go::BACK`]. (shard)
    pub handle: unsafe extern "C" fn(shard: *mut (), events: *const Event, len: usize, calls: CallsRef, cx: *mut ()),
    /// Drops the shard with all its topics and members. (shard)
    pub close: unsafe extern "C" fn(shard: *mut ()) -> u32,
    /// Drops the plugin's own value and joins every thread that the plugin started. (shard 0)
    #[sabi(last_prefix_field)]
    pub shutdown: unsafe extern "C" fn(plugin: *mut (), deadline_ms: u32) -> u32,
    /// Tries to read state of a topic ([`event::RESTORE`]) or of a member ([`event::RESTORE_MEMBER`]) that version `version` wrote,
    /// and drops it. Before it the host calls nothing but `check`. On failure writes why. (probe; since 1.2)
    ///
    /// State whose values the plugin would not write again is a failure, here and in answer to these events. An empty `state`
    /// stands for the state that a topic begins with. (since 1.4)
    pub try_restore: unsafe extern "C" fn(kind: u32, version: u32, state: Bytes, error: Writer) -> u32,
    /// Writes the JSON schema of the settings. Returns 1 and writes nothing if the plugin has none. The host calls nothing before
    /// it. (probe; since 1.3)
    pub schema: unsafe extern "C" fn(schema: Writer) -> u32,
}

impl RootModule for ModuleRef {
    abi_stable::declare_root_module_statics! {ModuleRef}
    const BASE_NAME: &'static str = "bennu_plugin";
    const NAME: &'static str = "bennu_plugin";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}
