//! Small programs, each a thing that people do, written, deployed and looked after as they would: with the command
//! line, and over HTTP.

mod links;
mod report;
mod tags;
mod worker;

use serde_json::Value;

use crate::cli::Desk;
use crate::harness::until;

impl Desk {
    /// Deploys a script under this name with these routes.
    #[track_caller]
    fn deploys(&self, name: &str, source: &str, routes: &[&str]) {
        let file = self.file(&format!("{name}.rhai"), source);
        let mut args = vec!["deploy", &file];
        routes.iter().for_each(|route| args.extend(["--route", route]));
        self.does(&args);
    }

    /// Adds a trigger for a script, and gives its id.
    #[track_caller]
    fn triggers(&self, script: &str, args: &[&str]) -> String {
        let made = self.json(&[&["trigger", "add", "--script", script], args].concat());
        made["id"].as_str().unwrap().to_owned()
    }

    /// The values whose keys begin so, without that beginning, as the command line lists them.
    #[track_caller]
    fn values(&self, prefix: &str) -> Vec<(String, Value)> {
        let listed = self.json(&["kv", "ls", "--prefix", prefix, "--limit", "0"]);
        let items = listed["items"].as_array().unwrap().iter();
        items
            .map(|item| (item["key"].as_str().unwrap()[prefix.len()..].to_owned(), item["value"].clone()))
            .collect()
    }

    /// The value of a key once there is one that `is_it`.
    #[track_caller]
    fn value_once(&self, key: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        until(&format!("the value of {key}"), || {
            let answer = self.daemon.api("GET", &format!("/apps/default/kv/{key}"), Value::Null);
            Some(answer)
                .filter(|answer| answer.status == 200)
                .map(|answer| answer.json()["value"].clone())
                .filter(&is_it)
        })
    }

    /// Waits until no work is left, due or not.
    #[track_caller]
    fn waits_for_all_work(&self) {
        until("the end of all work", || self.daemon.all("/outbox").is_empty().then_some(()));
    }
}
