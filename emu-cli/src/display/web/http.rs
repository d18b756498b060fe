//! As much HTTP as the page needs, and who may ask.
//!
//! A website that somebody visits can connect to ports of that person's machine: its scripts may open a websocket anywhere, and a name
//! of its own may lead to 127.0.0.1. So a request must come to this host by an address or by the name that was given, and a
//! websocket from the page that this port has served (`Origin` is `Host`; RFC 6455, 10.2).

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};
use tungstenite::handshake::derive_accept_key;

/// A request's head at most.
const MAX_HEAD: usize = 8192;
/// How long its client may take.
const PATIENCE: Duration = Duration::from_secs(10);

const PAGE: &str = include_str!("page.html");

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Answered.
    Done,
    /// A websocket, and it is open.
    Socket,
}

/// A request's head, taken apart.
struct Head<'a> {
    path: &'a str,
    host: &'a str,
    origin: Option<&'a str>,
    /// The websocket's key, if it is an upgrade to one.
    key: Option<&'a str>,
}

/// Reads a request and answers it, but for what comes on a websocket.
pub fn answer(mut stream: &TcpStream, name: &str, admitted: bool) -> Result<Request> {
    let head = read_head(stream)?;
    let Some(head) = parse(&head) else {
        return refuse(stream, "400 Bad Request", "not an HTTP request");
    };
    if !is_ours(head.host, name) {
        return refuse(stream, "403 Forbidden", "another host's name");
    }
    match (head.path, head.key) {
        ("/", _) => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
                 Cache-Control: no-store\r\nX-Frame-Options: DENY\r\n\
                 Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; \
                 style-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'\r\n\
                 Connection: close\r\n\r\n{PAGE}",
                PAGE.len()
            )?;
            Ok(Request::Done)
        }
        ("/screen", Some(_)) if !admitted => {
            refuse(stream, "503 Service Unavailable", "too many clients")
        }
        ("/screen", Some(key)) => {
            let same = |o: &str| o.split_once("://").is_some_and(|(_, at)| at == head.host);
            // A program that is no browser sends no origin.
            if !head.origin.is_none_or(same) {
                return refuse(stream, "403 Forbidden", "another site's page");
            }
            write!(
                stream,
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                derive_accept_key(key.as_bytes())
            )?;
            Ok(Request::Socket)
        }
        _ => refuse(stream, "404 Not Found", "there is / only"),
    }
}

/// Reads up to the empty line, a byte at a time: what follows is not ours.
fn read_head(mut stream: &TcpStream) -> Result<String> {
    let began = Instant::now();
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD || began.elapsed() > PATIENCE {
            return Err(ErrorKind::InvalidData.into());
        }
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(|_| Error::from(ErrorKind::InvalidData))
}

fn parse(text: &str) -> Option<Head<'_>> {
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let ("GET", path, "HTTP/1.1") = (first.next()?, first.next()?, first.next()?) else {
        return None;
    };
    let fields: Vec<(&str, &str)> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    let field = |name: &str| {
        let found = fields.iter().find(|f| f.0.eq_ignore_ascii_case(name));
        found.map(|f| f.1)
    };
    let upgrade = field("upgrade").is_some_and(|u| u.eq_ignore_ascii_case("websocket"));
    Some(Head {
        path,
        host: field("host")?,
        origin: field("origin"),
        key: field("sec-websocket-key").filter(|_| upgrade),
    })
}

/// Whether a `Host` field names us: an address, `localhost`, or the name that `--display` was given.
fn is_ours(host: &str, name: &str) -> bool {
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.parse::<u16>().is_ok() => bare,
        _ => host,
    };
    let bare = bare.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok()
        || bare.eq_ignore_ascii_case("localhost")
        || bare.eq_ignore_ascii_case(name)
}

fn refuse(mut stream: &TcpStream, status: &str, why: &str) -> Result<Request> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{why}",
        why.len()
    )?;
    Ok(Request::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let text = "GET /screen HTTP/1.1\r\nHost: localhost:1\r\nUpgrade: WebSocket\r\n\
                    Sec-WebSocket-Key: k\r\norigin: http://localhost:1\r\n\r\n";
        let head = parse(text).unwrap();
        assert_eq!((head.path, head.host), ("/screen", "localhost:1"));
        assert_eq!(
            (head.key, head.origin),
            (Some("k"), Some("http://localhost:1"))
        );
        for bad in [
            "",
            "\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\r\n\r\n",
        ] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn hosts() {
        for ours in [
            "127.0.0.1",
            "127.0.0.1:8006",
            "[::1]:8006",
            "[::1]",
            "localhost:80",
            "pc.example:8006",
            "192.0.2.7",
        ] {
            assert!(is_ours(ours, "pc.example"), "{ours}");
        }
        for other in ["evil.example:8006", "", "localhost.evil", "127.0.0.1.evil"] {
            assert!(!is_ours(other, "pc.example"), "{other}");
        }
    }
}
