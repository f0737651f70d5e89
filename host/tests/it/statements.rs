//! The lists of what the protocol says, and of what a reload and a fault may cost, are true: every statement has a test that is
//! there, or a reason.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// The sections of a list, and how many statements each has. A row that goes is missed here.
type Sections = [(&'static str, usize)];

const PROTOCOL: &Sections = &[
    ("1.12", 25),
    ("2.1", 9),
    ("2.2", 7),
    ("2.3", 23),
    ("2.4", 19),
    ("2.5", 13),
    ("2.6", 14),
    ("2.7", 9),
    ("2.8", 18),
    ("2.9", 6),
    ("2.10", 16),
    ("2.11", 20),
    ("2.12", 34),
    ("2.13", 7),
    ("3.1", 8),
    ("3.2", 12),
    ("3.3", 5),
    ("3.4", 6),
];

const RELOADS: &Sections = &[
    ("notice", 8),
    ("refused before any of it runs", 11),
    ("refused by the probe", 10),
    ("swap", 8),
    ("probation", 6),
    ("retire", 5),
    ("panics", 9),
    ("hangs", 7),
    ("crashes", 3),
    ("lies", 5),
    ("the machine", 3),
    ("proof", 3),
];

const FINDINGS: &Sections = &[
    ("A", 3),
    ("B", 3),
    ("C", 8),
    ("D", 8),
    ("E", 4),
    ("F", 3),
    ("G", 7),
    ("H", 10),
    ("I", 9),
    ("J", 2),
    ("K", 4),
];

#[test]
fn every_statement_of_the_protocol_has_a_test_that_is_there_or_a_reason() {
    check_list(include_str!("statements.toml"), PROTOCOL);
}

#[test]
fn every_statement_about_reloads_and_faults_has_a_test_that_is_there() {
    check_list(include_str!("reloads.toml"), RELOADS);
}

#[test]
fn every_fault_that_was_found_has_a_test_that_is_there_or_a_reason() {
    check_list(include_str!("findings.toml"), FINDINGS);
}

#[track_caller]
fn check_list(list: &str, expected: &Sections) {
    // TOML itself refuses a statement that stands twice in its section.
    let list: Table = list.parse().expect("a list");
    let mut faults = Vec::new();
    let sections: HashSet<&str> = list.keys().map(String::as_str).collect();
    assert_eq!(sections, expected.iter().map(|(name, _)| *name).collect());
    let mut seen = HashSet::new();
    for (section, statements) in expected {
        let table = list[*section].as_table().expect("a section");
        if table.len() != *statements {
            faults.push(format!("{section} has {} statements, not {statements}", table.len()));
        }
        for (statement, shown_by) in table {
            if !seen.insert(statement) {
                faults.push(format!("{section} `{statement}` stands twice"));
            }
            if let Err(fault) = check(statement, shown_by) {
                faults.push(format!("{section} `{statement}`: {fault}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// A statement says something, and so does its reason; its tests are there.
fn check(statement: &str, shown_by: &Value) -> Result<(), String> {
    if statement.trim().is_empty() {
        return Err("it says nothing".to_owned());
    }
    match shown_by {
        Value::String(reason) if reason.trim().is_empty() => Err("no reason".to_owned()),
        Value::String(reason) if reason.contains(".rs") || reason.contains(".txt") => {
            Err("a test is named in a list, where it is looked for".to_owned())
        }
        Value::String(_) => Ok(()),
        Value::Array(tests) if tests.is_empty() => Err("no test".to_owned()),
        Value::Array(tests) => {
            let mut seen = HashSet::new();
            tests.iter().try_for_each(|test| {
                let test = test.as_str().ok_or("a test is a text")?;
                if !seen.insert(test) {
                    return Err(format!("`{test}` stands twice"));
                }
                is_there(test)
            })
        }
        _ => Err("neither tests nor a reason".to_owned()),
    }
}

/// Whether a test is in its file, as a test.
fn is_there(test: &str) -> Result<(), String> {
    let (file, name) = test.split_once(' ').unwrap_or((test, ""));
    let text = fs::read_to_string(place(file)).map_err(|_| format!("there is no {file}"))?;
    let found = match (file.rsplit_once('.').map(|(_, kind)| kind), name) {
        // Every file in the folder is played: the transcripts' own test sees to that.
        (Some("txt"), "") => !text.trim().is_empty(),
        (Some("js"), name) if !name.is_empty() => {
            let calls = ["\"", "`"].map(|quote| format!("test({quote}{name}{quote}"));
            calls.iter().any(|call| text.contains(call))
        }
        (Some("rs"), name) if !name.is_empty() => has_test(&text, name),
        _ => false,
    };
    if found {
        Ok(())
    } else {
        Err(format!("{file} has no test `{name}`"))
    }
}

/// Whether a function of this name has the attribute of a test right before it.
fn has_test(text: &str, name: &str) -> bool {
    let heads = [format!("fn {name}("), format!("async fn {name}(")];
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.iter().enumerate().any(|(at, line)| {
        let before = lines[..at].iter().rev();
        let mut attributes = before.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        heads.iter().any(|head| line.starts_with(head))
            && attributes.any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
    })
}

/// Where the file of a test is.
fn place(file: &str) -> PathBuf {
    let host = Path::new(env!("CARGO_MANIFEST_DIR"));
    match file.split_once('/') {
        Some(("src", _)) => host.join(file),
        Some((package @ ("wire" | "tools"), rest)) => host.join(package).join("src").join(rest),
        Some(("api", rest)) => host.join("../plugin-api").join(rest),
        Some(("transcripts", _)) => host.join("tests/it").join(file),
        _ => host.join("tests").join(file),
    }
}

#[test]
fn what_is_not_there_is_found_out() {
    let faulty = |json: &str| {
        let list: Table = format!("x = {json}").parse().expect("TOML");
        check("it says something", &list["x"]).is_err()
    };
    assert!(!faulty(
        r#"["transcripts/joining.txt", "it/routes.rs routes_are_the_same_for_clients_of_phoenix_0_11"]"#
    ));
    assert!(!faulty(r#""because""#));
    for fault in [
        r#""""#,
        "[]",
        "7",
        "[7]",
        r#""see it/routes.rs""#,
        r#"["transcripts/nothing.txt"]"#,
        r#"["transcripts/joining.txt", "transcripts/joining.txt"]"#,
        r#"["it/routes.rs"]"#,
        r#"["it/routes.rs routes_are_the_same"]"#,
        // A function, and no test.
        r#"["it/routes.rs served_by"]"#,
        r#"["js/clients.test.js joins"]"#,
    ] {
        assert!(faulty(fault), "{fault}");
    }
    assert!(check(" ", &Value::String("because".to_owned())).is_err());
}
