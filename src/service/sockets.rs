//! The sockets: those that systemd opened, those that it kept for us, and those that we open.
//!
//! Sockets of a socket unit (systemd.socket(5)) need no privilege here, and those who come while the daemon restarts
//! wait in the kernel. What we open ourselves is given to systemd to keep, for the same. Without systemd there are only
//! our own.

use std::env;
use std::net::SocketAddr;

use listenfd::ListenFd;
use tokio::runtime::{self, Runtime};

use super::{Error, systemd};
use crate::config::{self, Config};
use crate::http::Listener;

/// The port of HTTPS (RFC 9110 4.2.2).
const HTTPS: u16 = 443;

/// All sockets that the daemon listens on.
pub(super) struct Sockets {
    all: Vec<Socket>,
    /// What systemd kept, until it is known who needs it.
    kept: Vec<Listener>,
}

struct Socket {
    listener: Listener,
    is_tls: bool,
    /// The address that the configuration asks for; `None` of a socket unit's.
    asked: Option<SocketAddr>,
}

impl Sockets {
    /// Takes what systemd hands over. Fails if that is no TCP socket.
    pub(super) fn inherit() -> Result<Sockets, Error> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut handed = ListenFd::from_env();
        let mut sockets = Sockets { all: Vec::new(), kept: Vec::new() };
        for number in 0..handed.len() {
            let name = names.next().unwrap_or_default();
            let unfit = |why: std::io::Error| Error::Inherited { name: name.to_owned(), why };
            let Some(socket) = handed.take_tcp_listener(number).map_err(unfit)? else { continue };
            let listener = Listener::adopt(socket).map_err(unfit)?;
            if systemd::is_kept(name) {
                sockets.kept.push(listener);
            } else {
                let is_tls = name == "https" || listener.address().port() == HTTPS;
                sockets.all.push(Socket { listener, is_tls, asked: None });
            }
        }
        Ok(sockets)
    }

    /// The sockets that this configuration wants: what there is already, and for the rest new ones. Changes nothing.
    pub(super) fn fit(&self, config: &Config) -> Result<Sockets, Error> {
        let given: Vec<&Socket> = self.all.iter().filter(|socket| socket.asked.is_none()).collect();
        let mut fitted = Sockets { all: Vec::new(), kept: Vec::new() };
        let clear: &[SocketAddr] = match &config.server.listen {
            // What the socket unit says holds, unless the configuration says something, too.
            usual if !given.is_empty() && *usual == config::Server::default().listen => &[],
            listen => listen,
        };
        for socket in &given {
            let address = socket.listener.address();
            let wants = |list: &[SocketAddr]| list.iter().any(|asked| covers(address, *asked));
            let is_tls = wants(&config.tls.listen) || (socket.is_tls && !wants(clear));
            fitted.all.push(Socket { listener: self.again(&socket.listener)?, is_tls, asked: None });
        }
        let asked = clear.iter().map(|address| (*address, false));
        for (address, is_tls) in asked.chain(config.tls.listen.iter().map(|address| (*address, true))) {
            if given.iter().any(|socket| covers(socket.listener.address(), address)) {
                continue;
            }
            let listener = match self.find(address, &fitted) {
                Some(found) => self.again(found)?,
                None => bind(address)?,
            };
            fitted.all.push(Socket { listener, is_tls, asked: Some(address) });
        }
        Ok(fitted)
    }

    /// Goes on with `new` instead. systemd keeps what is ours, and forgets what is gone.
    pub(super) fn become_these(&mut self, new: Sockets) {
        let address = |socket: &Socket| socket.asked.map(|_| socket.listener.address());
        let before: Vec<SocketAddr> = self.all.iter().filter_map(address).collect();
        let kept: Vec<SocketAddr> = self.kept.iter().map(Listener::address).collect();
        let now: Vec<SocketAddr> = new.all.iter().filter_map(address).collect();
        *self = new;
        for gone in before.iter().chain(&kept).filter(|address| !now.contains(address)) {
            systemd::forget(*gone);
        }
        for socket in &self.all {
            let address = socket.listener.address();
            if socket.asked.is_some() && !before.contains(&address) && !kept.contains(&address) {
                systemd::keep(socket.listener.socket(), address);
            }
        }
    }

    /// Whether there is nothing to listen on.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those of one kind.
    pub(super) fn of(&self, is_tls: bool) -> impl Iterator<Item = &Listener> {
        self.all.iter().filter(move |socket| socket.is_tls == is_tls).map(|socket| &socket.listener)
    }

    /// The addresses of those of one kind.
    pub(super) fn addresses(&self, is_tls: bool) -> Vec<SocketAddr> {
        self.of(is_tls).map(Listener::address).collect()
    }

    /// Those that speak in the clear.
    pub(super) fn into_listeners(self) -> Vec<Listener> {
        self.all.into_iter().filter(|socket| !socket.is_tls).map(|socket| socket.listener).collect()
    }

    /// One that was opened for this address before and is not taken yet.
    fn find(&self, asked: SocketAddr, taken: &Sockets) -> Option<&Listener> {
        let is_taken = |listener: &Listener| {
            taken.all.iter().any(|socket| socket.listener.address() == listener.address())
        };
        let own = self.all.iter().filter(|socket| socket.asked == Some(asked)).map(|socket| &socket.listener);
        let kept = self.kept.iter().filter(|listener| listener.address() == asked);
        own.chain(kept).find(|listener| !is_taken(listener))
    }

    fn again(&self, listener: &Listener) -> Result<Listener, Error> {
        Ok(listener.try_clone()?)
    }
}

/// Whether those who come to `asked` reach a socket that is bound to `bound`.
fn covers(bound: SocketAddr, asked: SocketAddr) -> bool {
    let everywhere = bound.ip().is_unspecified() && (bound.is_ipv6() || asked.is_ipv4());
    bound.port() == asked.port() && (bound.ip() == asked.ip() || everywhere)
}

fn bind(address: SocketAddr) -> Result<Listener, Error> {
    // Only for this: each house has an event loop of its own.
    let runtime: Runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(Listener::bind(address)).map_err(|source| Error::Listen { address, source })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[track_caller]
    fn check(bound: &str, asked: &str, reached: bool) {
        assert_eq!(covers(bound.parse().unwrap(), asked.parse().unwrap()), reached, "{bound} for {asked}");
    }

    #[test]
    fn who_reaches_what() {
        check("[::]:80", "0.0.0.0:80", true);
        check("[::]:80", "127.0.0.1:80", true);
        check("0.0.0.0:80", "192.0.2.1:80", true);
        check("0.0.0.0:80", "[::]:80", false);
        check("127.0.0.1:80", "127.0.0.1:80", true);
        check("127.0.0.1:80", "0.0.0.0:80", false);
        check("[::]:80", "[::]:8080", false);
    }

    fn config(listen: &[&str], tls: &[&str]) -> Config {
        let mut config = Config::default();
        config.server.listen = listen.iter().map(|address| address.parse().unwrap()).collect();
        config.tls.listen = tls.iter().map(|address| address.parse().unwrap()).collect();
        config
    }

    #[test]
    fn a_new_configuration_keeps_the_sockets_it_wants() {
        let mut sockets = Sockets { all: Vec::new(), kept: Vec::new() };
        sockets.become_these(sockets.fit(&config(&["127.0.0.1:0"], &[])).unwrap());
        let first = sockets.addresses(false);
        let wider = config(&["127.0.0.1:0", "127.0.0.1:0"], &["127.0.0.1:0"]);
        sockets.become_these(sockets.fit(&wider).unwrap());
        let (clear, by_tls) = (sockets.addresses(false), sockets.addresses(true));
        assert_eq!((clear.len(), by_tls.len(), clear[0]), (2, 1, first[0]));
        sockets.become_these(sockets.fit(&config(&["127.0.0.1:0"], &[])).unwrap());
        assert_eq!((sockets.addresses(false), sockets.addresses(true)), (first, vec![]));
    }

    #[test]
    fn what_cannot_be_bound_changes_nothing() {
        let mut sockets = Sockets { all: Vec::new(), kept: Vec::new() };
        sockets.become_these(sockets.fit(&config(&["127.0.0.1:0"], &[])).unwrap());
        let before = sockets.addresses(false);
        let taken = before[0].to_string();
        let refused = sockets.fit(&config(&["127.0.0.1:0", &taken], &[])).err().unwrap();
        assert!(refused.to_string().contains(&taken), "{refused}");
        assert_eq!(sockets.addresses(false), before);
    }

    #[test]
    fn sockets_of_a_unit_go_to_their_doors() {
        let bound = || Listener::adopt(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let (first, second) = (bound(), bound());
        let (plain, secure) = (first.address(), second.address());
        let all = vec![
            Socket { listener: first, is_tls: false, asked: None },
            Socket { listener: second, is_tls: true, asked: None },
        ];
        let sockets = Sockets { all, kept: vec![bound()] };
        let fitted = sockets.fit(&Config::default()).unwrap();
        assert_eq!((fitted.addresses(false), fitted.addresses(true)), (vec![plain], vec![secure]));
        let swapped = config(&[&secure.to_string()], &[&plain.to_string()]);
        let fitted = sockets.fit(&swapped).unwrap();
        assert_eq!((fitted.addresses(false), fitted.addresses(true)), (vec![secure], vec![plain]));
    }
}
