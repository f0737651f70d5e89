//! The loader with real libraries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bennu_plugin::abi::{Token, error, event};

use super::*;
use crate::runtime::plugin::stage::{Contents, StagedFile, read_settled};
use crate::runtime::plugin::testing;

/// Writes down what it is called with.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl HostCalls for Recorder {
    fn complete(&self, token: Token, binary: bool, status: &str, payload: &[u8]) -> i64 {
        assert!(payload != b"panic", "the host's own mistake");
        self.0.lock().unwrap().push(format!(
            "complete {}/{} {binary} {status} {payload:?}",
            token.topic, token.serial
        ));
        7
    }

    fn send(&self, topic: u64, member: u64, binary: bool, name: &str, payload: &[u8]) -> i64 {
        self.0
            .lock()
            .unwrap()
            .push(format!("send {topic}/{member} {binary} {name} {payload:?}"));
        0
    }

    fn log(&self, level: u32, target: &str, message: &str) {
        self.0.lock().unwrap().push(format!("log {level} {target} {message}"));
    }

    fn log_enabled(&self, level: u32, _: &str) -> bool {
        level <= 3
    }

    fn record(&self, line: &Line<'_>) {
        self.0.lock().unwrap().push(format!("{line:?}"));
    }

    fn panicked(&self, message: &str, place: &str) {
        self.0.lock().unwrap().push(format!("panicked {message} {place}"));
    }
}

/// One batch: what was committed, and where to stop.
#[derive(Default)]
struct Script {
    seen: Vec<String>,
    back_after: Option<usize>,
    panic_at: Option<usize>,
}

impl Calls for Script {
    fn done(&mut self, index: usize, outcome: Outcome, message: &str) -> Go {
        assert!(self.panic_at != Some(index), "the host's own mistake");
        self.seen.push(format!("done {index} {outcome:?} {message}"));
        if self.back_after == Some(index) {
            Go::Back
        } else {
            Go::On
        }
    }

    fn effect(&mut self, effect: &Effect<'_>) -> i64 {
        let Effect {
            kind,
            binary,
            member,
            number,
            name,
            payload,
            ..
        } = effect;
        self.seen
            .push(format!("effect {kind} {binary} {member} {number} {name} {payload:?}"));
        0
    }

    fn read(&mut self, what: u32, key: &str, out: &mut Vec<u8>) -> i64 {
        out.extend_from_slice(format!("{what}:{key}").as_bytes());
        0
    }
}

/// The good plugin, staged as generation `generation`.
fn staged(generation: u64) -> StagedFile {
    static CONTENTS: std::sync::OnceLock<Contents> = std::sync::OnceLock::new();
    let contents = CONTENTS.get_or_init(|| read_settled(testing::good_plugin(), || {}).unwrap());
    StagedFile::write(&stage_dir(), "raw", generation, contents).unwrap()
}

fn stage_dir() -> std::path::PathBuf {
    std::env::temp_dir().join("bennu-test-stage")
}

fn push<'a>(name: &'a str, payload: &'a [u8]) -> Event<'a> {
    Event {
        kind: event::IN,
        topic: 4,
        member: 5,
        token: 6,
        name,
        payload,
        ..Event::default()
    }
}

/// Loads a staged library for a plugin that nothing else is called.
fn load(staged: StagedFile) -> Arc<Library> {
    let of = LoadedFor {
        plugin: "raw",
        generation: 1,
        patience: Duration::from_secs(10),
    };
    Library::load(staged, of).unwrap()
}

fn close(library: Arc<Library>) {
    library.close(Duration::from_secs(10)).unwrap();
}

/// Loads the plugin on a thread of its own, lets `run` use one shard of it, and unloads it when the thread has ended.
fn with_shard<T: Send>(host: Arc<dyn HostCalls>, run: impl FnOnce(&mut ShardInstance) -> T + Send) -> T {
    let (result, library) = thread::scope(|scope| {
        let work = move || {
            let library = load(staged(1));
            let instance = Arc::clone(&library).init(host, "{}").unwrap();
            let mut shard = instance.open_shard(0, Arc::default()).unwrap();
            let result = run(&mut shard);
            assert!(shard.close());
            instance.shutdown(Duration::from_secs(1)).unwrap();
            (result, library)
        };
        scope.spawn(work).join().unwrap()
    });
    close(library);
    result
}

/// Hands `events` to a shard; what the host saw, and how many were handled.
fn handled(mut script: Script, events: &[Event<'_>]) -> (usize, Vec<String>) {
    with_shard(Arc::new(Recorder::default()), move |shard| {
        (shard.handle(events, &mut script).unwrap(), script.seen)
    })
}

#[test]
fn effects_come_before_the_event_is_done() {
    let (count, seen) = handled(
        Script::default(),
        &[
            push("echo", b"{}"),
            Event {
                binary: true,
                ..push("echo", b"\0")
            },
        ],
    );
    assert_eq!(count, 2);
    assert_eq!(
        seen,
        [
            "effect 5 false 5 1 echo [123, 125]",
            "done 0 Ok ",
            "effect 5 true 5 2 echo [0]",
            "done 1 Ok "
        ]
    );
}

#[test]
fn outcomes_are_told_apart() {
    let unknown = Event {
        kind: 99,
        ..push("", b"")
    };
    let (_, seen) = handled(Script::default(), &[push("panic", b""), push("nothing", b""), unknown]);
    assert_eq!(
        seen,
        ["done 0 Panicked it panicked", "done 1 Failed ", "done 2 Unknown "]
    );
}

#[test]
fn a_batch_ends_where_the_host_says_so() {
    let script = Script {
        back_after: Some(1),
        ..Script::default()
    };
    let (count, seen) = handled(script, &[push("pin", b""), push("pin", b""), push("pin", b"")]);
    assert_eq!((count, seen.len()), (2, 2));
}

#[test]
fn a_name_that_is_not_utf8_never_reaches_the_host() {
    let (_, seen) = handled(Script::default(), &[push("invalid", b"")]);
    assert_eq!(seen, [format!("done 0 Ok {}", error::INVALID)]);
}

#[test]
fn what_the_host_reads_is_copied_to_the_plugin() {
    let (_, seen) = handled(Script::default(), &[push("read", b"key"), push("read", b"\xff")]);
    assert_eq!(
        seen,
        ["done 0 Ok 0 1:key".to_owned(), format!("done 1 Ok {} ", error::INVALID)]
    );
}

#[test]
fn events_done_out_of_turn_are_not_counted() {
    let (count, seen) = handled(Script::default(), &[push("skip", b""), push("pin", b"")]);
    assert_eq!(
        (count, seen),
        (2, vec!["done 0 Ok ".to_owned(), "done 1 Ok ".to_owned()])
    );
}

#[test]
fn a_panic_of_the_host_passes_by_the_plugin() {
    with_shard(Arc::new(Recorder::default()), |shard| {
        let mut script = Script {
            panic_at: Some(0),
            ..Script::default()
        };
        let events = [push("echo", b""), push("echo", b"")];
        let run = std::panic::AssertUnwindSafe(|| shard.handle(&events, &mut script));
        assert!(std::panic::catch_unwind(run).is_err());
        assert_eq!(script.seen, ["effect 5 false 5 1 echo []"]);
        let mut next = Script::default();
        assert_eq!(
            shard.handle(&[push("echo", b"")], &mut next),
            Ok(1),
            "the shard goes on"
        );
    });
}

#[test]
fn any_thread_of_the_plugin_may_call_the_host() {
    let host = Arc::new(Recorder::default());
    let seen = with_shard(host.clone(), |shard| {
        let mut script = Script::default();
        let events = [push("later", b"1"), push("later", b"panic"), push("thread", b"")];
        shard.handle(&events, &mut script).unwrap();
        script.seen
    });
    assert_eq!(
        seen,
        [
            "done 0 Ok 7".to_owned(),
            format!("done 1 Ok {}", error::GONE),
            "done 2 Ok 0".to_owned()
        ]
    );
    let told = host.0.lock().unwrap().clone();
    assert_eq!(
        told,
        [
            "complete 4/6 false ok [49]",
            "log 3 raw from a thread",
            "send 1/2 true tick [0]"
        ]
    );
    assert_eq!(Arc::strong_count(&host), 1, "the host is let go at shutdown");
}

#[test]
fn settings_are_refused_where_they_are_wrong() {
    let library = load(staged(2));
    assert_eq!(library.check("{}"), Ok(()));
    let error = library.check("\"bad\"").unwrap_err();
    assert_eq!(
        (error.path.as_str(), error.message.as_str()),
        ("limits.history", "expected a number")
    );
    assert_eq!(library.check("\"vague\"").unwrap_err().message, "no");
    close(library);
}

#[test]
fn what_a_plugin_says_on_failure_is_passed_on() {
    let library = load(staged(3));
    let host = Arc::new(Recorder::default());
    assert_eq!(
        Arc::clone(&library).init(host.clone(), "\"bad\"").unwrap_err(),
        "no init"
    );
    assert_eq!(Arc::strong_count(&host), 1);
    let instance = Arc::clone(&library).init(host, "{}").unwrap();
    assert_eq!(instance.open_shard(13, Arc::default()).unwrap_err(), "unlucky");
    instance.shutdown(Duration::ZERO).unwrap();
    assert!(instance.open_shard(0, Arc::default()).is_err());
    drop(instance);
    close(library);
}

#[test]
fn nothing_is_shut_down_while_a_shard_is_open() {
    let library = load(staged(4));
    let instance = Arc::clone(&library).init(Arc::new(Recorder::default()), "{}").unwrap();
    let shard = instance.open_shard(0, Arc::default()).unwrap();
    assert!(matches!(
        instance.shutdown(Duration::ZERO),
        Err(super::instance::ShutdownError::ShardsOpen(1))
    ));
    drop(shard);
    instance.shutdown(Duration::ZERO).unwrap();
    instance.shutdown(Duration::ZERO).unwrap();
    drop(instance);
    close(library);
}

#[test]
fn a_library_that_did_not_stop_stays_mapped() {
    let library = load(staged(5));
    let mapping = library.mapping();
    let instance = library.init(Arc::new(Recorder::default()), "\"unclean\"").unwrap();
    assert!(matches!(
        instance.shutdown(Duration::ZERO),
        Err(super::instance::ShutdownError::Unclean)
    ));
    let staged = instance.library().path().to_owned();
    drop(instance);
    assert!(mapping.is_executable().unwrap());
    std::fs::remove_file(staged).unwrap();
    assert!(mapping.is_executable().unwrap(), "also after its file is gone");
}

/// Loads and unloads `contents` 100 times, each time on a thread of its own that hands `event` to a shard.
fn leaves_no_code_behind(contents: &Contents, event: Event<'static>) {
    for generation in 0..100 {
        let staged = StagedFile::write(&stage_dir(), "again", generation, contents).unwrap();
        let work = move || {
            let library = load(staged);
            let instance = Arc::clone(&library).init(Arc::new(Recorder::default()), "{}").unwrap();
            let mut shard = instance.open_shard(0, Arc::default()).unwrap();
            assert_eq!(shard.handle(&[event], &mut Script::default()), Ok(1));
            assert!(shard.close());
            instance.shutdown(Duration::from_secs(1)).unwrap();
            library
        };
        let library = thread::spawn(work).join().unwrap();
        let (mapping, path) = (library.mapping(), library.path().to_owned());
        assert!(mapping.is_executable().unwrap());
        close(library);
        assert!(
            !mapping.is_executable().unwrap(),
            "generation {generation} is still mapped"
        );
        assert!(!path.exists());
    }
}

#[test]
fn a_hundred_generations_leave_no_code_behind() {
    let contents = read_settled(testing::good_plugin(), || {}).unwrap();
    // The destructor of a thread-local is what would keep the library: it runs when the thread ends.
    leaves_no_code_behind(&contents, push("pin", b""));
}

#[test]
fn a_hundred_generations_of_a_plugin_of_the_kit_leave_no_code_behind() {
    let contents = read_settled(testing::echo_plugin(), || {}).unwrap();
    let join = Event {
        kind: event::JOIN,
        topic: 1,
        member: 1,
        name: "echo:1",
        payload: b"{}",
        ..Event::default()
    };
    leaves_no_code_behind(&contents, join);
}

#[test]
fn whoever_waits_for_the_systems_loader_learns_who_has_it() {
    let using = lock::enter("slow", "loading a library", Duration::from_secs(10)).unwrap();
    let error = lock::enter("room", "loading a library", Duration::ZERO).unwrap_err();
    assert!(
        error.to_string().contains("plugin slow has been loading a library"),
        "{error}"
    );
    assert_eq!(lock::stuck(Duration::ZERO), Some(error));
    assert_eq!(lock::stuck(Duration::from_secs(60)), None);
    drop(using);
}

#[test]
fn a_thread_that_computes_says_whose_code_it_runs() {
    let run = Arc::new(AtomicBool::new(true));
    signals::remember();
    let running = Arc::clone(&run);
    let (said, says) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        said.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs())
            .unwrap();
        while running.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    let found = whose_code(says.recv().unwrap());
    assert!(matches!(found, Some(None)), "no plugin's: {found:?}");
    run.store(false, Ordering::Relaxed);
    thread.join().unwrap();
}

#[test]
fn what_is_no_plugin_is_refused() {
    let code = |path: &Path| Library::open_checked(path).unwrap_err().code();
    assert_eq!(
        code(&testing::c_library("no_module", "int answer(void) { return 42; }")),
        "no_module"
    );
    assert_eq!(
        code(&testing::c_library(
            "undefined",
            "int missing(void); int f(void) { return missing(); }"
        )),
        "open"
    );
    assert_eq!(code(Path::new("/no/such/library.so")), "open");
}
