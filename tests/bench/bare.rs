//! The yardstick: what hyper does on this machine when it only echoes a body.
//!
//! It is this same program started once more, with as many workers as the daemon has, the daemon's allocator and
//! the daemon's settings of hyper, so that a ratio says what PiCloud adds and nothing else.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::Outcome;
use crate::process::Process;

/// The running echo server.
pub(crate) struct Bare {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl Bare {
    /// Starts the echo server and waits until it listens.
    pub(crate) fn start() -> Outcome<Bare> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--bare-hyper").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command)?;
        let mut line = String::new();
        let stdout = process.child.stdout.take().ok_or("the echo server has no standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Bare { process, address: line.trim().parse()? })
    }
}

/// Is the echo server: writes its address and serves until its standard input ends with the benchmark.
pub(crate) fn serve() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let socket = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
    println!("{}", socket.local_addr()?);
    runtime.spawn(accept(socket));
    io::copy(&mut io::stdin(), &mut io::sink())?;
    runtime.shutdown_background();
    Ok(())
}

async fn accept(socket: TcpListener) {
    while let Ok((stream, _)) = socket.accept().await {
        tokio::spawn(stay(stream));
    }
}

async fn stay(stream: TcpStream) -> Result<(), hyper::Error> {
    // It only delays answers to merge them; where it cannot be switched off, they are late.
    let _ = stream.set_nodelay(true);
    let mut protocol = http1::Builder::new();
    protocol.pipeline_flush(true).serve_connection(TokioIo::new(stream), service_fn(echo)).await
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
