//! How long it takes to find the route of a request among few and many, in this process.

use std::hint::black_box;
use std::time::Instant;

use picloud::http::RouteTable;
use picloud::model::Host;

use crate::Outcome;
use crate::args::Args;
use crate::numbers::{float, median};
use crate::seed::{self, Furniture};

/// Paths that are asked for in turn, spread over all routes.
const PATHS: usize = 1_000;

/// The cost of one look-up.
pub(crate) struct Matching {
    pub(crate) routes: usize,
    pub(crate) nanos: f64,
}

/// Measures tables of growing size.
pub(crate) fn run(args: &Args) -> Outcome<Vec<Matching>> {
    let laps = if args.is_quick() { 2 } else { 200 };
    [10, 1_000, 10_000].map(|routes| matching(routes, laps)).into_iter().collect()
}

/// Host to app, path to route: all that the hall does for a request.
fn matching(routes: usize, laps: u32) -> Outcome<Matching> {
    eprintln!("match: {routes} routes");
    let table = RouteTable::build(&Furniture::new(0, routes)?.catalog(), &RouteTable::default());
    // 7919 is prime to each number of routes: neighbours in time are no neighbours in the table.
    let paths: Vec<String> = (0..PATHS).map(|turn| seed::path(turn * 7919 % routes)).collect();
    let find = |path: &str| {
        let host = Host::from_header(black_box("pi.local:8080"));
        table.app(&host)?.find(&host, "GET", path)
    };
    if let Some(path) = paths.iter().find(|path| find(path).is_none()) {
        return Err(format!("no route takes {path}").into());
    }
    let count = float(u64::from(laps)) * float(u64::try_from(PATHS)?);
    let sample = || {
        let began = Instant::now();
        for _ in 0..laps {
            for path in &paths {
                black_box(find(black_box(path)));
            }
        }
        began.elapsed().as_secs_f64() * 1e9 / count
    };
    Ok(Matching { routes, nanos: median((0..9).map(|_| sample())) })
}
