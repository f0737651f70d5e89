//! Stands for the host at the boundary: hands events to a plugin, and notes each effect and the end of each event.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bennu_plugin::abi::{self, error, event, go};
use bennu_plugin::export::Entry;
use bennu_plugin::test::boundary::{Answers, Asked, Outside, Running, Said};
use bennu_plugin::{Channel, Connect, Plugin};

pub(crate) use bennu_plugin::test::boundary::Event;

/// A process has one panic hook, and these plugins install their own: one at a time is loaded.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The serial of the first promise.
pub(crate) const FIRST_SERIAL: u64 = 101;

/// Event `kind` for member 7 of topic 1.
pub(crate) fn event<'a>(kind: u32, name: &'a str, payload: &'a str) -> Event<'a> {
    Event {
        kind,
        topic: 1,
        member: 7,
        name,
        payload: payload.as_bytes(),
        ..Event::default()
    }
}

/// Member `member` joins topic 1, `room:1`.
pub(crate) fn join(member: u64, params: &str) -> Event<'_> {
    Event {
        member,
        ..event(event::JOIN, "room:1", params)
    }
}

/// Member `member` pushes `name`.
pub(crate) fn push<'a>(member: u64, name: &'a str, payload: &'a str) -> Event<'a> {
    Event {
        member,
        ..event(event::IN, name, payload)
    }
}

/// How one event ended.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) outcome: u32,
    pub(crate) message: String,
    pub(crate) effects: Vec<Asked>,
    /// Spans that began, by their names, and that ended, by their numbers.
    pub(crate) spans: Vec<String>,
}

impl Done {
    /// Its effects as `(kind, member, name, payload)`.
    pub(crate) fn seen(&self) -> Vec<(u32, u64, &str, &str)> {
        assert_eq!(self.outcome, abi::outcome::OK, "{}", self.message);
        self.effects
            .iter()
            .map(|effect| (effect.kind, effect.member, effect.name.as_str(), text(effect)))
            .collect()
    }
}

fn text(effect: &Asked) -> &str {
    str::from_utf8(&effect.body.bytes).expect("JSON")
}

/// A plugin with one shard.
pub(crate) struct Loaded {
    /// `None` when it was shut down.
    running: Option<Running>,
    pub(crate) outside: Arc<Outside>,
    /// The host takes the rest of a batch back after the event with this index.
    pub(crate) back_after: Option<usize>,
    _alone: MutexGuard<'static, ()>,
}

impl Loaded {
    pub(crate) fn new<C: Channel<P>, G: Connect<P>, P: Plugin>(settings: &str) -> Result<Self, String> {
        Self::with_log::<C, G, P>(settings, |_, _| true)
    }

    /// With a host whose log wants these lines only.
    pub(crate) fn with_log<C: Channel<P>, G: Connect<P>, P: Plugin>(
        settings: &str,
        wants: fn(u32, &str) -> bool,
    ) -> Result<Self, String> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let outside = Arc::new(Outside::with_log(wants));
        let running = Running::start(Entry::<C, G, P>::ROOT, settings, &outside)?;
        Ok(Self {
            running: Some(running),
            outside,
            back_after: None,
            _alone: alone,
        })
    }

    /// Has the plugin handle `events` in one batch.
    pub(crate) fn handle(&mut self, events: &[Event<'_>]) -> Vec<Done> {
        let mut batch = Batch {
            effects: Vec::new(),
            spans: Vec::new(),
            done: Vec::new(),
            back_after: self.back_after,
            serial: FIRST_SERIAL,
            outside: Arc::clone(&self.outside),
        };
        { self.running.as_ref() }.expect("runs").handle(events, &mut batch);
        assert!(batch.in_order(), "each event is done once, in order");
        batch.done.into_iter().map(|(_, done)| done).collect()
    }

    /// Has the plugin handle one event.
    pub(crate) fn one(&mut self, event: Event<'_>) -> Done {
        self.handle(&[event]).remove(0)
    }

    /// Closes the shard and shuts the plugin down; both results.
    pub(crate) fn end(&mut self) -> (u32, u32) {
        self.running.take().expect("runs").end()
    }

    /// The lines in the log, as `topic.member text`.
    pub(crate) fn log(&self) -> Vec<String> {
        let lines = self.outside.log().into_iter();
        lines
            .map(|line| format!("{}.{} {}", line.topic, line.member, line.text))
            .collect()
    }

    /// Waits for what a thread says to the host.
    pub(crate) fn said(&self) -> Said {
        self.outside.wait(Duration::from_secs(5));
        let mut said = self.outside.take();
        assert_eq!(said.len(), 1, "{said:?}");
        said.remove(0)
    }

    /// Waits for a line in the log that ends so.
    pub(crate) fn wait_for(&self, text: &str) {
        let start = Instant::now();
        while !self.log().iter().any(|line| line.contains(text)) {
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "no `{text}` in {:?}",
                self.log()
            );
            std::thread::yield_now();
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // A test that fails unwinds through here, where no panic hook can be taken away: that would be a second panic, and end
        // the process. The plugin stays, with what its hook calls.
        if std::thread::panicking() {
            std::mem::forget(self.running.take());
        }
    }
}

/// One call of `handle`.
struct Batch {
    effects: Vec<Asked>,
    spans: Vec<String>,
    done: Vec<(usize, Done)>,
    back_after: Option<usize>,
    serial: u64,
    outside: Arc<Outside>,
}

impl Batch {
    fn span_begin(&mut self, name: &str) -> i64 {
        let number = match name {
            "left out" => 0,
            _ => 1 + self.spans.len() as i64,
        };
        self.spans.push(format!("{name} is {number}"));
        number
    }

    fn in_order(&self) -> bool {
        self.done.iter().map(|(index, _)| *index).eq(0..self.done.len())
    }
}

impl Answers for Batch {
    fn effect(&mut self, asked: Asked) -> i64 {
        match asked.kind {
            abi::effect::SPAN_BEGIN => return self.span_begin(&asked.name),
            abi::effect::SPAN_END => {
                self.spans.push(format!("{} ends", asked.number));
                return 0;
            }
            _ => {}
        }
        let serial = self.serial;
        self.serial += 1;
        if asked.kind == abi::effect::LATER {
            self.outside.expect(serial);
        }
        self.effects.push(asked);
        serial.cast_signed()
    }

    fn unreadable(&mut self, _: u32, _: i64) {}

    fn read(&mut self, _: u32, _: &str) -> Result<String, i64> {
        Err(error::UNKNOWN)
    }

    fn done(&mut self, index: usize, outcome: u32, message: String) -> u32 {
        let effects = std::mem::take(&mut self.effects);
        let spans = std::mem::take(&mut self.spans);
        let done = Done {
            outcome,
            message,
            effects,
            spans,
        };
        self.done.push((index, done));
        if self.back_after == Some(index) {
            go::BACK
        } else {
            go::ON
        }
    }
}
