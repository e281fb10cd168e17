//! One call, from the first address to the last redirect. Runs on a thread of its own.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ureq::config::Config;
use ureq::http::{HeaderMap, HeaderValue, Method, Request, Response};
use ureq::unversioned::transport::{Connector, TcpConnector};
use ureq::{Agent, Body};

use crate::model::Egress;

use super::errand::Errand;
use super::resolve::Checked;
use super::tls::TlsConnector;
use super::{CHAIN_HEADER, Error, Net, chain};

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// What is read at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// An answer, as a script gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::script) struct Answer {
    /// The status.
    pub(in crate::script) status: u16,
    /// Lower-case names and values, in order.
    pub(in crate::script) headers: Vec<(String, String)>,
    /// The body as it came.
    pub(in crate::script) body: Vec<u8>,
}

impl Answer {
    /// The first value of a header, by its lower-case name.
    pub(in crate::script) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// By what a call under way is ended from another thread.
#[derive(Default)]
pub(super) struct Line(Mutex<State>);

#[derive(Default)]
struct State {
    is_dead: bool,
    agent: Option<Agent>,
}

impl Line {
    /// Ends the call: its connection is shut down, and none is made any more.
    pub(super) fn hang_up(&self) {
        let agent = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.is_dead = true;
            state.agent.take()
        };
        if let Some(agent) = agent {
            agent.shutdown();
        }
    }

    /// From now on this is what is shut down.
    fn use_agent(&self, agent: &Agent) -> Result<(), Error> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_dead {
            return Err(Error::Over);
        }
        state.agent = Some(agent.clone());
        Ok(())
    }
}

/// Makes the call.
pub(super) fn perform(net: &Net, line: &Line, egress: &Egress, errand: &Errand) -> Result<Answer, Error> {
    let began = Instant::now();
    let mut errand = errand.clone();
    let asked = errand.redirects;
    loop {
        let answer = Hop { net, errand: &errand, began }.go(line, egress)?;
        match errand.redirected(&answer)? {
            Some(next) => errand = next,
            None if asked > 0 && errand.redirects == 0 && is_redirect(&answer) => {
                let why = format!("redirected more than {asked} times, at last by {}", errand.target);
                return Err(Error::Broken(why));
            }
            None => return Ok(answer),
        }
    }
}

fn is_redirect(answer: &Answer) -> bool {
    matches!(answer.status, 301 | 302 | 303 | 307 | 308) && answer.header("location").is_some()
}

/// One request and its answer.
struct Hop<'a> {
    net: &'a Net,
    errand: &'a Errand,
    began: Instant,
}

impl Hop<'_> {
    fn go(&self, line: &Line, egress: &Egress) -> Result<Answer, Error> {
        let target = &self.errand.target;
        let addresses = self.net.lookup.allowed(target, egress)?;
        let mut request = Request::builder().method(self.errand.method.clone()).uri(target.url.as_str());
        if let Some(headers) = request.headers_mut() {
            headers.clone_from(&self.errand.headers);
            // To all of them or none: which will be called is not known yet, and it must not leave the device.
            if addresses.iter().all(|address| chain::is_own(address.ip()))
                && let Ok(value) = HeaderValue::try_from(self.net.key.sign(self.errand.chain))
            {
                headers.insert(CHAIN_HEADER, value);
            }
        }
        let connector = ().chain(TcpConnector::default()).chain(TlsConnector(self.net.tls.clone()));
        let agent = Agent::with_parts(self.config()?, connector, Checked(addresses));
        line.use_agent(&agent)?;
        let sent = match (&self.errand.body, self.sends_length()) {
            (Some(body), _) => self.run(&agent, request.body(body.as_slice())),
            (None, true) => self.run(&agent, request.body(&[][..])),
            (None, false) => {
                request.body(()).map_err(ureq::Error::from).and_then(|request| agent.run(request))
            }
        };
        self.read(sent.map_err(|error| self.explain(error))?)
    }

    fn run(
        &self,
        agent: &Agent,
        request: Result<Request<&[u8]>, ureq::http::Error>,
    ) -> Result<Response<Body>, ureq::Error> {
        agent.run(request?)
    }

    /// Whether the length is sent although there is no body (RFC 9110 8.6).
    fn sends_length(&self) -> bool {
        [Method::POST, Method::PUT, Method::PATCH].contains(&self.errand.method)
    }

    fn config(&self) -> Result<Config, Error> {
        let left = self.errand.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.late());
        }
        let config = Agent::config_builder()
            // Not what the environment says: it would be asked instead of the addresses that were checked.
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .allow_non_standard_methods(true)
            .max_response_header_size(HEAD_BYTES_MAX)
            .max_idle_connections(0)
            .timeout_global(Some(left))
            .timeout_connect(Some(self.net.settings.connect_time_max.min(left)))
            .user_agent(concat!("picloud/", env!("CARGO_PKG_VERSION")));
        Ok(config.build())
    }

    fn read(&self, response: Response<Body>) -> Result<Answer, Error> {
        let (parts, body) = response.into_parts();
        let most = self.errand.bytes_max;
        if body
            .content_length()
            .is_some_and(|length| usize::try_from(length).map_or(true, |length| length > most))
            && self.errand.method != Method::HEAD
        {
            return Err(self.too_large());
        }
        let (mut reader, mut bytes, mut chunk) = (body.into_reader(), Vec::new(), vec![0; CHUNK_BYTES]);
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.explain(error.into())),
            }
            if bytes.len() > most {
                return Err(self.too_large());
            }
        }
        Ok(Answer { status: parts.status.as_u16(), headers: readable(&parts.headers), body: bytes })
    }

    fn too_large(&self) -> Error {
        let most = self.errand.bytes_max;
        Error::TooLarge(format!("the answer of {} has more than {most} bytes", self.errand.target))
    }

    fn late(&self) -> Error {
        Error::Timeout(self.began.elapsed().as_millis())
    }

    /// What went wrong, in words for the script's author.
    fn explain(&self, error: ureq::Error) -> Error {
        let target = &self.errand.target;
        let broken = |why: &dyn fmt::Display| Error::Broken(format!("{target} gave no proper answer: {why}"));
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect) if Instant::now() < self.errand.deadline => {
                let seconds = self.net.settings.connect_time_max.as_secs();
                Error::Connect(format!("{target} could not be reached within {seconds} s"))
            }
            ureq::Error::Timeout(_) => self.late(),
            ureq::Error::LargeResponseHeader(..) => Error::TooLarge(format!(
                "the head of the answer of {target} has more than {HEAD_BYTES_MAX} bytes"
            )),
            ureq::Error::Io(error) => match tls_error(&error) {
                Some(error) => Error::Connect(format!("no TLS with {target}: {error}{}", hint(error))),
                None if is_of_connecting(&error) => {
                    Error::Connect(format!("{target} could not be reached: {error}"))
                }
                None => broken(&error),
            },
            ureq::Error::Tls(why) => Error::Connect(format!("no TLS with {target}: {why}")),
            other => broken(&other),
        }
    }
}

/// Lower-case names, and values as text.
fn readable(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn is_of_connecting(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::PermissionDenied
    )
}

/// What can be done about a certificate.
fn hint(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer};
    match error {
        rustls::Error::InvalidCertificate(UnknownIssuer) => {
            "; name the authority of a local network in egress.ca_file"
        }
        rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        ) => "; see that the clock of this device is right",
        _ => "",
    }
}
