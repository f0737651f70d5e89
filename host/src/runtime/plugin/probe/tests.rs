//! The probe, over children that behave and children that do not.

use super::*;
use crate::runtime::plugin::testing;

/// Names the library for [`as_child`].
const LIBRARY: &str = "BENNU_TEST_PROBE_LIBRARY";

/// Not a test of its own: what the tests below start as their child, since the program itself is not built here.
#[test]
fn as_child() {
    if let Some(library) = std::env::var_os(LIBRARY) {
        let _ = child::serve(Path::new(&library), false);
        std::process::exit(0);
    }
}

fn try_library(library: &Path, settings: &str, limits: &ProbeLimits) -> Result<ProbeReport, ProbeError> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "runtime::plugin::probe::tests::as_child", "--nocapture"])
        .env(LIBRARY, library);
    run(command, settings, Vec::new(), limits)
}

/// Probes the good plugin with `settings`; what it is rejected for.
fn refused(settings: &str) -> ProbeError {
    try_library(testing::good_plugin(), settings, &patient()).unwrap_err()
}

/// Limits of a slow machine.
fn patient() -> ProbeLimits {
    ProbeLimits {
        wall: Duration::from_secs(20),
        ..ProbeLimits::default()
    }
}

/// Those for children that hang.
fn hasty() -> ProbeLimits {
    ProbeLimits {
        wall: Duration::from_millis(300),
        ..ProbeLimits::default()
    }
}

fn refused_c(name: &str, body: &str, limits: &ProbeLimits) -> ProbeError {
    let text = format!("#include <stdlib.h>\n__attribute__((constructor)) static void run(void) {{ {body} }}");
    try_library(&testing::c_library(name, &text), "{}", limits).unwrap_err()
}

#[test]
fn a_good_plugin_passes() {
    try_library(testing::good_plugin(), "{}", &patient()).unwrap();
}

#[test]
fn a_plugin_of_the_kit_passes() {
    try_library(testing::echo_plugin(), "{}", &patient()).unwrap();
}

#[test]
fn what_a_plugin_prints_does_not_matter() {
    try_library(testing::good_plugin(), "\"chatty\"", &patient()).unwrap();
}

#[test]
fn refused_settings_say_where() {
    let error = refused("\"bad\"");
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        ("settings", "limits.history: expected a number")
    );
    assert_eq!(refused("\"vague\"").to_string(), "no");
}

#[test]
fn a_crash_names_signal_and_step() {
    // Rust's own handler of SIGSEGV lets a real fault through.
    assert_eq!(
        refused("\"crash\"").to_string(),
        "it crashed with SIGSEGV while it checked its settings"
    );
    assert_eq!(
        refused("\"abort\"").to_string(),
        "it crashed with SIGABRT while it checked its settings"
    );
    let error = refused_c("ctor_crash", "*(volatile int *)0 = 1;", &patient());
    assert_eq!(error.to_string(), "it crashed with SIGSEGV while it was loaded");
    assert_eq!(error.code(), "probe_crashed");
}

#[test]
fn an_exit_keeps_its_code_and_last_words() {
    match refused("\"exit\"") {
        ProbeError::Exited {
            code: 3,
            step: Step::Check,
            stderr,
        } => assert_eq!(stderr, "leaving"),
        other => panic!("{other:?}"),
    }
    let error = refused_c("ctor_exit", "exit(0);", &patient());
    assert_eq!(
        error.to_string(),
        "it ended the process with code 0 while it was loaded"
    );
}

#[test]
fn a_child_that_hangs_is_killed() {
    let error = try_library(testing::good_plugin(), "\"hang\"", &hasty()).unwrap_err();
    assert_eq!(error.code(), "probe_timed_out");
    let error = refused_c("ctor_hang", "for (;;) {}", &hasty());
    assert_eq!(error.code(), "probe_timed_out");
}

#[test]
fn limits_hold() {
    let text =
        "char *p = malloc(4ul << 30); if (!p) abort(); for (unsigned long i = 0; i < 4ul << 30; i += 4096) p[i] = 1;";
    assert_eq!(
        refused_c("ctor_memory", text, &patient()).to_string(),
        "it crashed with SIGABRT while it was loaded"
    );
    let text = "volatile unsigned long i; for (;;) i++;";
    let limits = ProbeLimits { cpu_s: 1, ..patient() };
    assert!(refused_c("ctor_cpu", text, &limits).to_string().contains("SIGXCPU"));
}

#[test]
fn other_files_are_refused() {
    let folder = testing::Folder::new();
    folder.write("text.so", "this is no library");
    let text = folder.join("text.so");
    assert_eq!(try_library(&text, "{}", &patient()).unwrap_err().code(), "open");
    let plain = testing::c_library("probe_plain", "int f(void) { return 1; }");
    assert_eq!(try_library(&plain, "{}", &patient()).unwrap_err().code(), "no_module");
}

#[test]
fn a_contract_that_differs_is_told_in_one_line() {
    let line = |name: &str, from: &str, to: &str| {
        let library = testing::lying_plugin(name, from, to);
        match try_library(&library, "{}", &patient()).unwrap_err() {
            ProbeError::Layout(error) => {
                assert!(error.report.lines().count() > 20, "the long report is kept");
                error.line
            }
            other => panic!("{other:?}"),
        }
    };
    let event = "    /// By kind.\n    pub number: u64,\n    /// By kind. UTF-8.";
    assert_eq!(
        line(
            "raw_added",
            "pub info: Bytes,\n}",
            "pub info: Bytes,\n    /// More.\n    pub more: u64,\n}"
        ),
        "a field of `Event`: expected none, found more"
    );
    assert_eq!(
        line("raw_typed", event, &event.replace("u64", "i64")),
        "the type of `Event.number`: expected u64, found i64"
    );
    assert_eq!(
        line("raw_renamed", event, &event.replace("number", "amount")),
        "a field of `Event`: expected number, found amount"
    );
}

#[test]
fn the_child_is_ended_with_all_that_it_started() {
    let text = "#include <unistd.h>\n__attribute__((constructor)) static void run(void) \
                { if (fork() == 0) for (;;) pause(); for (;;) pause(); }";
    let library = testing::c_library("ctor_fork", text);
    let error = try_library(&library, "{}", &hasty()).unwrap_err();
    assert_eq!(error.code(), "probe_timed_out");
    let name = library.file_name().unwrap().to_string_lossy().into_owned();
    let mapped_by = |entry: &std::fs::DirEntry| {
        std::fs::read_to_string(entry.path().join("maps")).is_ok_and(|maps| maps.contains(&name))
    };
    // A killed process that is not reaped yet has no mappings any more; give the kernel the moment it needs.
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| mapped_by(&entry))
    {
        assert!(Instant::now() < deadline, "a process is left");
        std::thread::yield_now();
    }
}
