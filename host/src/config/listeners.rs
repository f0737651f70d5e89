//! Reads `[[listeners]]`, `[tls]` and `[proxies]`.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::json;
use toml::Spanned;

use super::around::Surroundings;
use super::listening::{At, Certificate, Listener, Proxies, ProxyHeader, Tls, TlsVersion};
use super::reader::Section;

/// The longest path of a Unix socket, in bytes. It is a limit of the system.
const MAX_SOCKET_PATH: usize = 107;
/// What a listener's `listen` may be.
const EXAMPLES: &str = "write \"0.0.0.0:443\", \"unix:/run/bennu/clients.sock\" or \"systemd:NAME\"";

pub(super) fn listeners(sections: Vec<Section<'_>>, tls: &Tls, around: &Surroundings<'_>) -> Vec<Listener> {
    sections
        .into_iter()
        .filter_map(|section| listener(section, tls, around))
        .collect()
}

fn listener(section: Section<'_>, tls: &Tls, around: &Surroundings<'_>) -> Option<Listener> {
    let text = section.required_text("listen", "\"0.0.0.0:443\"");
    let mode = mode(&section);
    let at = text.as_ref().and_then(|text| at(&section, text, mode, around));
    let (has_tls, proxy_protocol) = (section.flag("tls", false), section.flag("proxy_protocol", false));
    if has_tls
        && tls.certificates.is_empty()
        && let Some(asked) = section.value("tls")
    {
        let missing = section
            .mistakes
            .error(asked.span(), "there is no certificate for this listener");
        section
            .mistakes
            .add(missing.help("add `[[tls.certificates]]` with `cert_file` and `key_file`"));
    }
    section.finish();
    Some(Listener {
        at: at?,
        tls: has_tls,
        proxy_protocol,
    })
}

fn at(section: &Section<'_>, text: &Spanned<String>, mode: u32, around: &Surroundings<'_>) -> Option<At> {
    let refuse = |message: String, help: &str| {
        let refused = section.mistakes.error(text.span(), message).help(help);
        section.mistakes.add(refused);
        None
    };
    let written = text.get_ref();
    if let Some(path) = written.strip_prefix("unix:") {
        if path.is_empty() {
            return refuse("`unix:` names no path".to_owned(), EXAMPLES);
        }
        let path = around.path(Some(Spanned::new(text.span(), path.to_owned())))?;
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            let message = format!("the path of a Unix socket may have {MAX_SOCKET_PATH} bytes at most");
            return refuse(message, "name a shorter path, such as \"unix:/run/bennu/clients.sock\"");
        }
        return Some(At::Unix { path, mode });
    }
    if let Some(name) = written.strip_prefix("systemd:") {
        if name.is_empty() {
            return refuse(
                "`systemd:` names no socket".to_owned(),
                "name the one that `FileDescriptorName=` of the socket unit names, such as \"systemd:clients\"",
            );
        }
        return Some(At::Passed(name.to_owned()));
    }
    match written.parse() {
        Ok(address) => Some(At::Tcp(address)),
        Err(_) => refuse(format!("nobody can listen on `{written}`"), EXAMPLES),
    }
}

/// The permissions of a Unix socket, in octal digits.
fn mode(section: &Section<'_>) -> u32 {
    const DEFAULT: u32 = 0o660;
    let text = section.text("mode");
    section.note(
        "mode",
        json!({ "type": "string", "pattern": "^[0-7]{3,4}$", "default": "0660" }),
    );
    let Some(text) = text else { return DEFAULT };
    let digits = text.get_ref();
    let mode = u32::from_str_radix(digits, 8).ok();
    match mode.filter(|mode| (3..=4).contains(&digits.len()) && *mode <= 0o777) {
        Some(mode) => mode,
        None => {
            let message = format!("`{digits}` are no permissions of a socket");
            let refused = section.mistakes.error(text.span(), message);
            section
                .mistakes
                .add(refused.help("write three or four octal digits, such as \"0660\" or \"0666\""));
            DEFAULT
        }
    }
}

pub(super) fn tls(section: Section<'_>, around: &Surroundings<'_>) -> Tls {
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let tls = Tls {
        certificates: section
            .sections("certificates")
            .into_iter()
            .filter_map(|section| certificate(section, around))
            .collect(),
        min_version: section.choice("min_version", &versions, TlsVersion::default()),
    };
    section.finish();
    tls
}

fn certificate(section: Section<'_>, around: &Surroundings<'_>) -> Option<Certificate> {
    let file = |key, example| -> Option<PathBuf> { around.path(section.required_text(key, example)) };
    let cert_file = file("cert_file", "\"fullchain.pem\"");
    let key_file = file("key_file", "\"privkey.pem\"");
    section.finish();
    Some(Certificate {
        cert_file: cert_file?,
        key_file: key_file?,
    })
}

pub(super) fn proxies(section: Section<'_>) -> Proxies {
    let headers = [
        ("x-forwarded-for", ProxyHeader::XForwardedFor),
        ("forwarded", ProxyHeader::Forwarded),
        ("none", ProxyHeader::None),
    ];
    let proxies = Proxies {
        trusted: networks(&section, "trusted").unwrap_or_default(),
        header: section.choice("header", &headers, ProxyHeader::default()),
    };
    section.finish();
    proxies
}

/// A list of addresses and networks, if it is there.
pub(super) fn networks(section: &Section<'_>, name: &'static str) -> Option<Vec<IpNet>> {
    let read = |text: Spanned<String>| {
        let network = network(text.get_ref());
        if network.is_none() {
            let message = format!("`{}` is neither an address nor a network", text.get_ref());
            let refused = section.mistakes.error(text.span(), message);
            section
                .mistakes
                .add(refused.help("write such as \"192.0.2.7\", \"10.0.0.0/8\" or \"2001:db8::/32\""));
        }
        network
    };
    Some(section.texts(name)?.into_iter().filter_map(read).collect())
}

/// An address counts as the network that it is alone in.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let alone = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>().ok().map(|network| network.trunc()).or_else(alone)
}
