//! A host that runs nothing: hands events to a plugin's [`Module`](bennu_plugin::abi::Module) and notes what comes back.

use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use abi_stable::prefix_type::PrefixTypeTrait;
use bennu_plugin::abi::{self, Bytes, Calls, CallsRef, Host, ModuleRef, Token, Writer, event, flag, go};
use bennu_plugin::export::Entry;
use bennu_plugin::{Channel, Connect, Plugin};

/// A plugin's panic hook is one a process, so one plugin at a time is loaded here.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// One thing that happens.
#[derive(Clone, Default)]
pub(crate) struct Event {
    pub(crate) kind: u32,
    pub(crate) binary: bool,
    pub(crate) topic: u64,
    pub(crate) member: u64,
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) info: String,
}

/// Event `kind` for member 7 of topic 1.
pub(crate) fn event(kind: u32, name: &str, payload: &str) -> Event {
    Event {
        kind,
        topic: 1,
        member: 7,
        name: name.into(),
        payload: payload.into(),
        ..Event::default()
    }
}

/// Member `member` joins topic 1, `room:1`.
pub(crate) fn join(member: u64, params: &str) -> Event {
    Event {
        member,
        ..event(event::JOIN, "room:1", params)
    }
}

/// Member `member` pushes `name`.
pub(crate) fn push(member: u64, name: &str, payload: &str) -> Event {
    Event {
        member,
        ..event(event::IN, name, payload)
    }
}

/// One effect that the plugin asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Effect {
    pub(crate) kind: u32,
    pub(crate) binary: bool,
    pub(crate) member: u64,
    pub(crate) token: u64,
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// Where the payload stands, to see that it was not copied.
    pub(crate) at: usize,
}

impl Effect {
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.payload).expect("JSON")
    }
}

/// How one event ended.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) outcome: u32,
    pub(crate) message: String,
    pub(crate) effects: Vec<Effect>,
}

impl Done {
    /// Its effects as `(kind, member, name, payload)`.
    pub(crate) fn seen(&self) -> Vec<(u32, u64, &str, &str)> {
        assert_eq!(self.outcome, abi::outcome::OK, "{}", self.message);
        self.effects
            .iter()
            .map(|effect| (effect.kind, effect.member, effect.name.as_str(), effect.text()))
            .collect()
    }
}

/// What reached the host from any thread.
#[derive(Default)]
pub(crate) struct Outside {
    pub(crate) lines: Mutex<Vec<String>>,
    news: Condvar,
}

impl Outside {
    fn note(&self, line: String) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        self.news.notify_all();
    }

    /// Waits until a line holds `text`.
    pub(crate) fn wait_for(&self, text: &str) {
        let lines = self.lines.lock().expect("no panic");
        let missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(text));
        let (lines, timeout) = self
            .news
            .wait_timeout_while(lines, Duration::from_secs(5), missing)
            .expect("no panic");
        assert!(!timeout.timed_out(), "no `{text}` in {lines:?}");
    }
}

/// A plugin with one shard.
pub(crate) struct Loaded<C, G, P> {
    module: ModuleRef,
    plugin: *mut (),
    shard: *mut (),
    pub(crate) outside: Arc<Outside>,
    /// What `read` answers.
    pub(crate) presence: String,
    /// Called back after the event with this index.
    pub(crate) back_after: Option<usize>,
    _alone: MutexGuard<'static, ()>,
    kind: PhantomData<(C, G, P)>,
}

impl<C: Channel<P>, G: Connect<P>, P: Plugin> Loaded<C, G, P> {
    pub(crate) fn new(settings: &str) -> Result<Self, String> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let module = Entry::<C, G, P>::ROOT;
        let outside = Arc::new(Outside::default());
        let host = Host {
            complete,
            send,
            log,
            log_enabled,
            record,
            panicked,
        };
        let host = host.leak_into_prefix();
        let (mut plugin, mut shard) = (std::ptr::null_mut(), std::ptr::null_mut());
        let settings = Bytes::lend(settings.as_bytes());
        called(|error| {
            // SAFETY: `outside` lives until `shutdown` has returned.
            unsafe { module.init()(host, Arc::as_ptr(&outside).cast(), settings, &raw mut plugin, error) }
        })?;
        // SAFETY: `plugin` is from `init`.
        called(|error| unsafe { module.open()(plugin, 0, &raw mut shard, error) })?;
        let presence = "{}".to_owned();
        Ok(Self {
            module,
            plugin,
            shard,
            outside,
            presence,
            back_after: None,
            _alone: alone,
            kind: PhantomData,
        })
    }

    pub(crate) fn check(settings: &str) -> Result<(), String> {
        // SAFETY: everything is lent for the call.
        called(|error| unsafe { Entry::<C, G, P>::ROOT.check()(Bytes::lend(settings.as_bytes()), error) })
    }

    /// Has the plugin handle `events` in one batch.
    pub(crate) fn handle(&mut self, events: &[Event]) -> Vec<Done> {
        let lent: Vec<abi::Event> = events.iter().map(lend).collect();
        let mut batch = Batch {
            effects: Vec::new(),
            done: Vec::new(),
            presence: self.presence.clone(),
            back_after: self.back_after,
            serial: 100,
        };
        let calls: CallsRef = Calls { done, effect, read }.leak_into_prefix();
        // SAFETY: everything is lent for the call, on this one thread.
        unsafe { self.module.handle()(self.shard, lent.as_ptr(), lent.len(), calls, (&raw mut batch).cast()) };
        batch.done
    }

    /// Has the plugin handle one event.
    pub(crate) fn one(&mut self, event: Event) -> Done {
        self.handle(&[event]).remove(0)
    }
}

impl<C, G, P> Loaded<C, G, P> {
    /// Closes and shuts down; both results.
    pub(crate) fn end(&mut self) -> (u32, u32) {
        let (shard, plugin) = (std::mem::take(&mut self.shard.addr()), self.plugin);
        if shard == 0 {
            return (0, 0);
        }
        // SAFETY: from `open` and `init`, given back once.
        let ended = unsafe { (self.module.close()(self.shard), self.module.shutdown()(plugin, 5_000)) };
        self.shard = std::ptr::null_mut();
        ended
    }
}

impl<C, G, P> Drop for Loaded<C, G, P> {
    fn drop(&mut self) {
        // A test that fails unwinds through here, and then no panic hook can be taken away: that would be a second panic, and end
        // the process. The plugin stays, with what its hook calls.
        if std::thread::panicking() {
            std::mem::forget(Arc::clone(&self.outside));
            return;
        }
        self.end();
    }
}

fn called(call: impl FnOnce(Writer) -> u32) -> Result<(), String> {
    unsafe extern "C" fn write(cx: *mut (), bytes: Bytes) {
        // SAFETY: `cx` is the `error` below.
        unsafe { (*cx.cast::<Vec<u8>>()).extend_from_slice(bytes.as_slice()) };
    }
    let mut error = Vec::new();
    match call(Writer {
        cx: (&raw mut error).cast(),
        write,
    }) {
        0 => Ok(()),
        _ => Err(String::from_utf8(error).expect("UTF-8")),
    }
}

fn lend(event: &Event) -> abi::Event {
    abi::Event {
        kind: event.kind,
        flags: if event.binary { flag::BINARY } else { 0 },
        topic: event.topic,
        member: event.member,
        token: 0,
        number: event.number,
        name: Bytes::lend(event.name.as_bytes()),
        payload: Bytes::lend(&event.payload),
        info: Bytes::lend(event.info.as_bytes()),
    }
}

/// One call of `handle`.
struct Batch {
    effects: Vec<Effect>,
    done: Vec<Done>,
    presence: String,
    back_after: Option<usize>,
    serial: i64,
}

unsafe extern "C" fn done(cx: *mut (), index: usize, outcome: u32, message: Bytes) -> u32 {
    // SAFETY: `cx` is the batch of this call.
    let batch = unsafe { &mut *cx.cast::<Batch>() };
    assert_eq!(index, batch.done.len(), "each event once, in order");
    let effects = std::mem::take(&mut batch.effects);
    batch.done.push(Done {
        outcome,
        message: text(message),
        effects,
    });
    if batch.back_after == Some(index) {
        go::BACK
    } else {
        go::ON
    }
}

unsafe extern "C" fn effect(cx: *mut (), effect: *const abi::Effect) -> i64 {
    // SAFETY: `cx` is the batch of this call, `effect` is lent for it.
    let (batch, effect) = unsafe { (&mut *cx.cast::<Batch>(), *effect) };
    // SAFETY: lent for this call.
    let payload = unsafe { effect.payload.as_slice() };
    batch.effects.push(Effect {
        kind: effect.kind,
        binary: effect.flags & flag::BINARY != 0,
        member: effect.member,
        token: effect.token,
        number: effect.number,
        name: text(effect.name),
        topic: text(effect.topic),
        payload: payload.to_vec(),
        at: payload.as_ptr().addr(),
    });
    batch.serial += 1;
    batch.serial
}

unsafe extern "C" fn read(cx: *mut (), what: u32, key: Bytes, out: Writer) -> i64 {
    // SAFETY: `cx` is the batch of this call, `key` is lent for it.
    let (list, key) = unsafe { (&(*cx.cast::<Batch>()).presence, text(key)) };
    let list: serde_json::Value = serde_json::from_str(list).expect("JSON");
    let found = match what {
        abi::read::PRESENCE => &list,
        abi::read::PRESENCE_KEY => match list.get(&key) {
            Some(entry) => entry,
            None => return abi::error::UNTRACKED,
        },
        other => panic!("no such thing to read: {other}"),
    };
    // SAFETY: `out` is lent for this call.
    unsafe { (out.write)(out.cx, Bytes::lend(found.to_string().as_bytes())) };
    0
}

unsafe extern "C" fn complete(cx: *const (), token: Token, _: u32, status: Bytes, payload: Bytes) -> i64 {
    // SAFETY: `cx` is alive until `shutdown` has returned.
    let outside = unsafe { &*cx.cast::<Outside>() };
    outside.note(format!(
        "complete {}.{} {} {}",
        token.topic,
        token.serial,
        text(status),
        text(payload)
    ));
    0
}

unsafe extern "C" fn send(cx: *const (), topic: u64, member: u64, _: u32, name: Bytes, payload: Bytes) -> i64 {
    // SAFETY: `cx` is alive until `shutdown` has returned.
    let outside = unsafe { &*cx.cast::<Outside>() };
    outside.note(format!("send {topic}.{member} {} {}", text(name), text(payload)));
    0
}

unsafe extern "C" fn log(cx: *const (), level: u32, _: Bytes, message: Bytes) {
    // SAFETY: `cx` is alive until `shutdown` has returned.
    let outside = unsafe { &*cx.cast::<Outside>() };
    eprintln!("log {level}: {}", text(message));
    outside.note(format!("log {level} {}", text(message)));
}

unsafe extern "C" fn log_enabled(_: *const (), level: u32, target: Bytes) -> u32 {
    u32::from(level <= 3 && text(target) != "quiet")
}

/// Notes a line as `log 3 it::logging topic.member message="…" name=value …`.
unsafe extern "C" fn record(cx: *const (), record: *const abi::Record) -> i64 {
    // SAFETY: `cx` is alive until `shutdown` has returned; the record and its fields are lent for this call.
    let (outside, record, fields) = unsafe {
        let record = &*record;
        let fields = std::slice::from_raw_parts(record.fields, record.len);
        (&*cx.cast::<Outside>(), record, fields)
    };
    let fields = fields.iter().map(|field| {
        let value = match field.kind {
            abi::value::TEXT => format!("{:?}", text(field.text)),
            abi::value::WRITTEN => text(field.text),
            abi::value::BOOL => (field.number != 0).to_string(),
            abi::value::I64 => field.number.cast_signed().to_string(),
            abi::value::U64 => field.number.to_string(),
            abi::value::F64 => f64::from_bits(field.number).to_string(),
            other => panic!("no such value: {other}"),
        };
        format!(" {}={value}", text(field.name))
    });
    let (target, fields) = (text(record.target), fields.collect::<String>());
    let line = format!(
        "log {} {target} {}.{}{fields}",
        record.level, record.topic, record.member
    );
    eprintln!("{line}");
    outside.note(line);
    0
}

unsafe extern "C" fn panicked(cx: *const (), message: Bytes, place: Bytes) {
    // SAFETY: `cx` is alive until `shutdown` has returned.
    let outside = unsafe { &*cx.cast::<Outside>() };
    outside.note(format!("panicked {} | {}", text(message), text(place)));
}

fn text(bytes: Bytes) -> String {
    // SAFETY: lent for the call that this is in.
    String::from_utf8_lossy(unsafe { bytes.as_slice() }).into_owned()
}
