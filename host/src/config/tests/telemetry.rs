//! `[telemetry]`.

use std::time::Duration;

use super::*;
use crate::config::telemetry_model::Follow;

fn telemetry(lines: &str) -> String {
    format!("{BARE}[telemetry]\n{lines}\n")
}

#[track_caller]
fn check_refused(lines: &str, expected: &str) {
    check(&telemetry(lines), expected);
}

#[test]
fn nothing_is_traced_unless_the_file_says_otherwise() {
    assert_eq!(read(BARE).telemetry, None);
    let telemetry = read(&telemetry("")).telemetry.expect("a section");
    assert_eq!(telemetry.endpoint, "http://127.0.0.1:4318/v1/traces");
    assert_eq!((telemetry.ratio, telemetry.follow), (0.01, Follow::Backends));
    assert_eq!((telemetry.service_name, telemetry.headers_file), (None, None));
    assert_eq!((telemetry.topics, telemetry.max_queue_spans), (false, 4_096));
    assert_eq!(telemetry.flush_timeout, Duration::from_secs(2));
}

#[test]
fn a_ratio_is_a_number_from_0_to_1() {
    for (written, expected) in [
        ("0", 0.0),
        ("1", 1.0),
        ("0.25", 0.25),
        ("1e-3", 0.001),
        ("0.00_1", 0.001),
    ] {
        let read = read(&telemetry(&format!("ratio = {written}")));
        assert_eq!(read.telemetry.expect("a section").ratio, expected, "{written}");
    }
    for wrong in ["1.01", "-0.1", "2", "nan", "inf", "\"1\"", "true"] {
        check_refused(&format!("ratio = {wrong}"), "6:9: `ratio` must be a number from 0 to 1");
    }
}

#[test]
fn an_endpoint_is_the_whole_address_and_nothing_secret() {
    for wrong in ["127.0.0.1:4318", "grpc://host:4317", "http://", "host", ""] {
        check_refused(
            &format!("endpoint = \"{wrong}\""),
            "6:12: this is not the URL of a collector that speaks OTLP over HTTP",
        );
    }
    for wrong in ["http://me:hunter2@host/v1/traces", "https://host/v1/traces?key=hunter2"] {
        check_refused(
            &format!("endpoint = \"{wrong}\""),
            "6:12: `endpoint` must not hold a password, nor a key in a query",
        );
    }
    for wrong in ["http://host:4318", "http://host:4318/"] {
        check_refused(
            &format!("endpoint = \"{wrong}\""),
            "6:12: `endpoint` needs the path where the collector takes spans",
        );
    }
    let good = read(&telemetry("endpoint = \"https://host/otlp/v1/traces\""));
    assert_eq!(
        good.telemetry.expect("a section").endpoint,
        "https://host/otlp/v1/traces"
    );
}

#[test]
fn other_mistakes_are_said() {
    check_refused("follow = \"clients\"", "6:10: `follow` cannot be `clients`");
    check_refused(
        "service_name = \"\"",
        "6:16: `service_name` must have 1 to 255 bytes, without control characters",
    );
    check_refused(
        "max_queue_spans = 1",
        "6:19: `max_queue_spans` must be from 16 to 1_000_000",
    );
}
