//! What cannot be seen from outside: names that change their minds, and runs that end while they wait.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::resolve::Lookup;
use super::testing::{messenger_by, settings};
use super::{Errand, Error, Messenger};
use crate::model::{Chain, Egress};

/// A server on `host` that answers every request with `says`; counts its connections.
fn server(host: &str, says: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let own = count.clone();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            own.fetch_add(1, Relaxed);
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(says.as_bytes());
        }
    });
    (address, count)
}

fn errand(url: &str, seconds: u64) -> Errand {
    let chain = Chain { depth: 0, root: Uuid::nil() };
    Errand::new("GET", url, chain, 1000, Instant::now() + Duration::from_secs(seconds)).unwrap()
}

fn opened(networks: &str) -> Egress {
    serde_json::from_str(&format!(r#"{{"networks":["{networks}"]}}"#)).unwrap()
}

fn send(messenger: &Messenger, errand: Errand) -> Result<String, Error> {
    let answer = messenger.send(Uuid::nil(), errand, || false)?;
    Ok(String::from_utf8(answer.body).unwrap())
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ngood";

#[test]
fn a_name_that_changes_its_mind_leads_nowhere_else() {
    let (good, _) = server("127.0.0.1", OK);
    let (evil, evil_count) = server("127.0.0.2", OK);
    // Allowed the first time, forbidden ever after: as a server does that rebinds its name.
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let lookup = Lookup::by(move |_, _| Ok(vec![if count.fetch_add(1, Relaxed) == 0 { good } else { evil }]));
    let messenger = messenger_by(settings(None), lookup, opened("127.0.0.1"));
    assert_eq!(send(&messenger, errand("http://rebinds.example/", 30)).unwrap(), "good");
    assert_eq!(asked.load(Relaxed), 1, "the name was asked for again");
    let refused = send(&messenger, errand("http://rebinds.example/", 30)).unwrap_err().to_string();
    assert!(refused.contains("rebinds.example is 127.0.0.2, which is a loopback address"), "{refused}");
    assert_eq!(evil_count.load(Relaxed), 0);
}

#[test]
fn each_redirect_is_looked_up_and_checked_anew() {
    let (good, count) = server(
        "127.0.0.1",
        "HTTP/1.1 302 X\r\nlocation: /again\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
    let (evil, evil_count) = server("127.0.0.2", OK);
    let asked = AtomicUsize::new(0);
    let lookup = Lookup::by(move |_, _| Ok(vec![if asked.fetch_add(1, Relaxed) < 2 { good } else { evil }]));
    let messenger = messenger_by(settings(None), lookup, opened("127.0.0.1"));
    let refused = send(&messenger, errand("http://rebinds.example/", 30)).unwrap_err().to_string();
    assert!(refused.contains("which is a loopback address"), "{refused}");
    assert_eq!((count.load(Relaxed), evil_count.load(Relaxed)), (2, 0));
}

#[test]
fn a_run_that_ends_while_a_name_is_looked_up_does_not_wait_for_it() {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let lookup = Lookup::by(move |_, _| {
        // Until the test is over: then the sender is gone.
        let _ = released.lock().unwrap().recv();
        Ok(Vec::new())
    });
    let messenger = messenger_by(settings(None), lookup, Egress::default());
    let looks = Cell::new(0);
    let is_over = || {
        looks.set(looks.get() + 1);
        looks.get() > 3
    };
    let ended = messenger.send(Uuid::nil(), errand("http://slow.example/", 3600), is_over);
    assert_eq!(ended.unwrap_err(), Error::Over);
    assert_eq!(messenger.under_way.count(), 1, "the place is only free when its thread is");
    drop(release);
    while messenger.under_way.count() > 0 {
        thread::yield_now();
    }
}
