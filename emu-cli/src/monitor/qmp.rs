//! What is spoken on a QMP connection (QEMU's docs/interop/qmp-spec): greeting, negotiation, commands, answers.

use super::Context;
use super::commands;
use super::events::Event;
use super::frame::{FrameError, Framer};
use super::server::Session;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What a browser sends first when a web page makes it talk to our port: nobody we talk with.
const HTTP: [&[u8]; 5] = [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"OPTIONS "];

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    class: &'static str,
    desc: String,
}

/// A command's answer.
pub type Answer = Result<Value, Refusal>;

impl Refusal {
    pub fn unknown(desc: impl Into<String>) -> Self {
        Self {
            class: "CommandNotFound",
            desc: desc.into(),
        }
    }

    pub fn no_device(desc: impl Into<String>) -> Self {
        Self {
            class: "DeviceNotFound",
            desc: desc.into(),
        }
    }

    pub fn desc(&self) -> &str {
        &self.desc
    }
}

impl<T: Into<String>> From<T> for Refusal {
    fn from(desc: T) -> Self {
        Self {
            class: "GenericError",
            desc: desc.into(),
        }
    }
}

/// A client's session.
pub struct Qmp {
    context: Arc<Context>,
    framer: Framer,
    negotiated: bool,
    /// The first bytes that came, as many as tell HTTP.
    first: Vec<u8>,
}

/// The part of QEMU's version that clients look at: the monitor's commands are those of this one.
pub fn version() -> Value {
    json!({
        "qemu": { "major": 7, "minor": 2, "micro": 0 },
        "package": concat!("emu ", env!("CARGO_PKG_VERSION")),
    })
}

impl Qmp {
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            framer: Framer::default(),
            negotiated: false,
            first: Vec::new(),
        }
    }

    /// What a value that has come is answered with.
    fn answer(&mut self, value: Result<Value, FrameError>) -> Value {
        let mut id = None;
        let answer = match value {
            Ok(Value::Object(mut request)) => {
                id = request.remove("id");
                self.execute(request)
            }
            Ok(_) => Err("QMP input must be a JSON object".into()),
            Err(e) => Err(e.to_string().into()),
        };
        let mut reply = Map::new();
        match answer {
            Ok(value) => reply.insert("return".into(), value),
            Err(Refusal { class, desc }) => {
                reply.insert("error".into(), json!({ "class": class, "desc": desc }))
            }
        };
        if let Some(id) = id {
            reply.insert("id".into(), id);
        }
        Value::Object(reply)
    }

    fn execute(&mut self, mut request: Map<String, Value>) -> Answer {
        let arguments = match request.remove("arguments") {
            None => json!({}),
            Some(arguments @ Value::Object(_)) => arguments,
            Some(_) => return Err("QMP input member 'arguments' must be an object".into()),
        };
        let command = match request.remove("execute") {
            Some(Value::String(command)) => command,
            Some(_) => return Err("QMP input member 'execute' must be a string".into()),
            None => return Err("QMP input lacks member 'execute'".into()),
        };
        if let Some((key, _)) = request.iter().next() {
            return Err(format!("QMP input member '{key}' is unexpected").into());
        }
        match (self.negotiated, &command[..]) {
            (false, "qmp_capabilities") => {
                commands::capabilities(arguments)?;
                self.negotiated = true;
                Ok(json!({}))
            }
            (false, _) => Err(Refusal::unknown(
                "Expecting capabilities negotiation with 'qmp_capabilities'",
            )),
            (true, "qmp_capabilities") => Err(Refusal::unknown(
                "Capabilities negotiation is already complete, command ignored",
            )),
            (true, _) => commands::run(&self.context, &command, arguments),
        }
    }

    /// Whether it is a browser that speaks.
    fn is_http(&mut self, bytes: &[u8]) -> bool {
        let room = 8 - self.first.len();
        self.first.extend(&bytes[..bytes.len().min(room)]);
        HTTP.iter().any(|verb| self.first.starts_with(verb))
    }
}

fn line(value: &Value, out: &mut Vec<u8>) {
    out.extend(value.to_string().as_bytes());
    out.extend(b"\r\n");
}

impl Session for Qmp {
    fn greet(&mut self, out: &mut Vec<u8>) {
        line(
            &json!({ "QMP": { "version": version(), "capabilities": [] } }),
            out,
        );
    }

    fn input(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        if !self.negotiated && self.is_http(bytes) {
            return 0;
        }
        for (n, &byte) in bytes.iter().enumerate() {
            if let Some(value) = self.framer.push(byte) {
                line(&self.answer(value), out);
                return n + 1;
            }
        }
        bytes.len()
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.negotiated {
            line(event, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> (Qmp, Arc<Context>) {
        let context = Context::unused();
        (Qmp::new(context.clone()), context)
    }

    /// What is answered, one value a line.
    fn say(qmp: &mut Qmp, text: &str) -> Vec<Value> {
        let (mut out, mut at) = (Vec::new(), text.as_bytes());
        while !at.is_empty() {
            match qmp.input(at, &mut out) {
                0 => break,
                n => at = &at[n..],
            }
        }
        let out = String::from_utf8(out).unwrap();
        out.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }

    fn error(class: &str, desc: &str) -> Value {
        json!({ "error": { "class": class, "desc": desc } })
    }

    #[test]
    fn nothing_before_the_negotiation() {
        let (mut qmp, context) = session();
        let mut out = Vec::new();
        qmp.greet(&mut out);
        let hello: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(hello["QMP"]["capabilities"], json!([]));
        let expecting = "Expecting capabilities negotiation with 'qmp_capabilities'";
        let got = say(
            &mut qmp,
            "{'execute':'query-version'} {'execute':'qmp_capabilities','arguments':{'enable':['oob']}}",
        );
        assert_eq!(got[0], error("CommandNotFound", expecting));
        assert_eq!(got[1]["error"]["class"], "GenericError");
        out.clear();
        qmp.event(&Arc::new(json!({"event": "STOP"})), &mut out);
        assert!(out.is_empty());
        let got = say(
            &mut qmp,
            "{'execute':'qmp_capabilities','id':[7]}{'execute':'qmp_capabilities'}",
        );
        assert_eq!(got[0], json!({"return": {}, "id": [7]}));
        assert_eq!(got[1]["error"]["class"], "CommandNotFound");
        qmp.event(&Arc::new(json!({"event": "STOP"})), &mut out);
        assert_eq!(out, b"{\"event\":\"STOP\"}\r\n");
        drop(context);
    }

    #[test]
    fn mistakes_have_qemus_words() {
        let (mut qmp, _context) = session();
        say(&mut qmp, "{'execute':'qmp_capabilities'}");
        for (text, class, desc) in [
            (
                "{'execute':'stopp'}",
                "CommandNotFound",
                "The command stopp has not been found: did you mean stop?",
            ),
            (
                "{'execute':'xyzzy'}",
                "CommandNotFound",
                "The command xyzzy has not been found",
            ),
            ("[]", "GenericError", "QMP input must be a JSON object"),
            ("7 ", "GenericError", "QMP input must be a JSON object"),
            ("{}", "GenericError", "QMP input lacks member 'execute'"),
            (
                "{'execute':7}",
                "GenericError",
                "QMP input member 'execute' must be a string",
            ),
            (
                "{'execute':'stop','arguments':[]}",
                "GenericError",
                "QMP input member 'arguments' must be an object",
            ),
            (
                "{'execute':'stop','x':1}",
                "GenericError",
                "QMP input member 'x' is unexpected",
            ),
            (
                "{'execute':'query-version','arguments':{'x':1}}",
                "GenericError",
                "Parameter 'x' is unexpected",
            ),
            (
                "{'execute':'send-key','arguments':{}}",
                "GenericError",
                "Parameter 'keys' is missing",
            ),
        ] {
            assert_eq!(say(&mut qmp, text), [error(class, desc)], "{text}");
        }
        let broken = say(&mut qmp, "{'execute' 1}");
        let desc = broken[0]["error"]["desc"].as_str().unwrap();
        assert!(desc.starts_with("JSON parse error, "), "{desc}");
    }

    #[test]
    fn a_web_page_gets_no_word_in() {
        let (mut qmp, _context) = session();
        assert!(say(&mut qmp, "PO").is_empty());
        let text = "ST / HTTP/1.1\r\n\r\n{'execute':'qmp_capabilities'}";
        assert!(say(&mut qmp, text).is_empty());
        assert!(!qmp.negotiated);
    }
}
