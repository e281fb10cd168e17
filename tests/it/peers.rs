//! Servers for scripts to call: well behaved ones and others, each on a port of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

/// A connection, in the clear or not.
trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    /// All lines after the first, in lower case but for their values.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A server; it serves until the tests end.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl Peer {
    /// Answers each request with the bytes that `answer` writes, and closes the connection.
    pub(crate) fn new(answer: impl Fn(&Asked, &mut dyn Write) + Send + Sync + 'static) -> Peer {
        Peer::on(Ok, answer)
    }

    /// Answers with what was asked, as JSON.
    pub(crate) fn echo() -> Peer {
        Peer::new(|asked, out| {
            let body = String::from_utf8_lossy(&asked.body);
            let told = json!({ "method": asked.method, "path": asked.path, "body": body,
                "type": asked.header("content-type"), "length": asked.header("content-length") });
            say(out, 200, "content-type: application/json\r\n", told.to_string().as_bytes());
        })
    }

    /// Says hello over TLS as one of `names`. Gives its certificate, too, in PEM.
    pub(crate) fn tls(names: &[&str]) -> (Peer, String) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let wrap = move |socket| Ok(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket));
        let peer = Peer::on(wrap, |_, out| say(out, 200, "content-type: text/plain\r\n", b"hello"));
        (peer, made.cert.pem())
    }

    fn on<W: Wire>(
        wrap: impl Fn(TcpStream) -> std::io::Result<W> + Send + Sync + 'static,
        answer: impl Fn(&Asked, &mut dyn Write) + Send + Sync + 'static,
    ) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (own, shared) = (seen.clone(), Arc::new((wrap, answer)));
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (seen, shared) = (own.clone(), shared.clone());
                thread::spawn(move || {
                    let Ok(mut wire) = shared.0(socket) else { return };
                    // Whoever breaks off has asked nothing.
                    if let Some(asked) = read(&mut wire) {
                        seen.lock().unwrap().push(asked.clone());
                        shared.1(&asked, &mut wire);
                        let _ = wire.flush();
                    }
                });
            }
        });
        Peer { address, seen }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }
}

/// Writes an answer. Whoever went away does not hear it.
pub(crate) fn say(out: &mut dyn Write, status: u16, headers: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = out.write_all(head.as_bytes()).and_then(|()| out.write_all(body));
}

fn read(wire: &mut impl Wire) -> Option<Asked> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break String::from_utf8(bytes.drain(..end + 4).collect()).unwrap();
        }
        more(wire, &mut bytes)?;
    };
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let pairs = lines.filter_map(|line| line.split_once(": "));
    let headers = pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let mut asked = Asked { method, path, headers, body: bytes };
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    while asked.body.len() < length {
        more(wire, &mut asked.body)?;
    }
    Some(asked)
}

fn more(wire: &mut impl Wire, bytes: &mut Vec<u8>) -> Option<()> {
    let mut chunk = [0; 4096];
    let count = wire.read(&mut chunk).ok().filter(|count| *count > 0)?;
    bytes.extend_from_slice(&chunk[..count]);
    Some(())
}
