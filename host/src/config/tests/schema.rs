//! The schema for editors says what the reader says.

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::*;

const SHIPPED: &str = include_str!("../../../../config/bennu.schema.json");

/// A setting can be put into each of these tables.
fn whole() -> Value {
    json!({
        "server": {}, "admin": {}, "api": { "keys": [{ "name": "web", "allow": ["read"], "topics": ["a"] }] }, "log": {}, "limits": {},
        "listeners": [{ "listen": "127.0.0.1:1" }], "proxies": {},
        "tls": { "certificates": [{ "cert_file": "a.pem", "key_file": "a.key" }] },
        "mounts": [{ "path": "/socket" }],
        "plugins": { "room": { "library": "libroom.so" } },
        "routes": [{ "topic": "room:*", "plugin": "room" }],
    })
}

fn validator() -> Validator {
    jsonschema::draft7::new(&schema()).expect("a schema")
}

#[test]
fn the_shipped_schema_is_what_the_reader_asks_for() {
    let fresh = format!("{:#}\n", schema());
    assert!(
        SHIPPED == fresh,
        "it is not: run `cargo run -- schema > config/bennu.schema.json`"
    );
}

#[test]
fn the_shipped_files_are_accepted() {
    let folder = shipped("");
    let files = std::fs::read_dir(folder)
        .expect("config/")
        .map(|file| file.expect("a file").path());
    let files: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|end| end == "toml"))
        .collect();
    assert!(files.len() >= 3);
    for file in files {
        let text = std::fs::read_to_string(&file).expect("text");
        let value: Value = toml::from_str(&text).expect("TOML");
        let errors: Vec<_> = validator().iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", file.display());
    }
}

#[test]
fn every_setting_is_described() {
    let mut missing = Vec::new();
    each_setting(&schema(), "", &mut |path, setting| {
        // Tables that stand twice in the file are described once.
        let known = [
            "server",
            "admin",
            "api",
            "log",
            "limits",
            "store",
            "mounts",
            "plugins",
            "routes",
            "mounts.check_origin.plugin",
        ];
        let elsewhere = known.contains(&path) || path.starts_with("mounts.longpoller_crypto.");
        if !elsewhere && setting.get("description").is_none() {
            missing.push(path.to_owned());
        }
    });
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_schema_and_the_reader_take_and_refuse_the_same() {
    let (schema, validator) = (schema(), validator());
    let mut tried = 0;
    let mut check = |path: &str, value: Value| {
        let mut file = whole();
        if path == "mounts.origins" || path.starts_with("mounts.longpoller") {
            file["mounts"][0]["dialect"] = json!("0.11");
        }
        if path == "mounts.max_broadcast_messages" {
            file["mounts"][0]["dialect"] = json!("supabase");
        }
        if path.starts_with("mounts.auth.") {
            file["mounts"][0]["auth"] = json!({ "jwt": { "algorithms": ["HS256"] } });
        }
        if path.starts_with("mounts.auth.phoenix_token.") {
            file["mounts"][0]["auth"] = json!({ "phoenix_token": { "salt": "s" } });
        }
        if path == "cluster.login" {
            file["cluster"] = match value.as_str() {
                Some("user") => json!({ "user": "ann" }),
                Some("credentials") => json!({ "login_file": "a" }),
                _ => json!({}),
            };
        }
        put(&mut file, path, value.clone());
        let text = toml::to_string(&file).expect("TOML");
        let read = Config::parse(Path::new("bennu.toml"), &text, Mode::Serve);
        let accepted = validator.is_valid(&file);
        assert_eq!(
            accepted,
            read.is_ok(),
            "{path} = {value}\n{}",
            read.err().map(|e| e.render(false)).unwrap_or_default()
        );
        tried += 1;
    };
    each_setting(&schema, "", &mut |path, setting| {
        for value in candidates(setting) {
            check(path, value);
        }
    });
    for table in ["server", "limits", "mounts.longpoll.crypto", "plugins.*", "routes"] {
        check(&format!("{table}.unheard_of"), json!(1));
    }
    assert!(tried > 150, "{tried} only");
}

/// Values at the edge of what a setting says it takes, and of a type that it does not.
fn candidates(setting: &Value) -> Vec<Value> {
    let variants = setting
        .get("anyOf")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or(vec![setting.clone()]);
    let mut values = vec![json!(1.5)];
    for variant in variants {
        if let (Some(least), Some(most)) = (variant["minimum"].as_u64(), variant["maximum"].as_u64()) {
            values.extend([json!(least), json!(most), json!(most + 1)]);
            values.extend(least.checked_sub(1).map(|below| json!(below)));
        }
        values.extend(variant["enum"].as_array().into_iter().flatten().cloned());
        values.extend(variant.get("const").cloned());
        values.extend(setting.get("default").cloned());
        if variant["type"] == "boolean" {
            values.extend([json!(true), json!(false), json!("true")]);
        }
        if variant.get("enum").is_some() {
            values.push(json!("unheard_of"));
        }
    }
    values
}

/// Calls with the path and the schema of each setting and each table.
fn each_setting(schema: &Value, path: &str, call: &mut impl FnMut(&str, &Value)) {
    let none = Map::new();
    for (key, setting) in schema["properties"].as_object().unwrap_or(&none) {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        call(&path, setting);
        let either = setting["anyOf"].as_array().into_iter().flatten();
        for inner in either.chain([setting, &setting["items"]]) {
            each_setting(inner, &path, call);
        }
        each_setting(&setting["additionalProperties"], &format!("{path}.*"), call);
    }
}

/// Puts a value at a path, into the first of a list and of any names.
fn put(file: &mut Value, path: &str, value: Value) {
    let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut at = file;
    for part in table.split('.').filter(|part| !part.is_empty()) {
        at = match part {
            "*" => at
                .as_object_mut()
                .and_then(|tables| tables.values_mut().next())
                .expect(path),
            part => &mut at[part],
        };
        if at.is_null() {
            *at = json!({});
        }
        if at.is_array() {
            at = &mut at[0];
        }
    }
    at[key] = value;
}
