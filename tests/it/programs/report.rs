//! A report that sums up the sales of each day, every morning at seven, or when somebody asks for it.

use serde_json::{Value, json};

use crate::cli::Desk;

const REPORT: &str = r#"
    let days = #{};
    let cursor = ();
    do {
        let page = kv::list("sale/", #{ limit: 3, cursor: cursor });
        for item in page.items {
            let day = time::format(time::parse(item.value.at), "%Y-%m-%d", "Europe/Berlin");
            days[day] = (days[day] ?? 0) + item.value.cents;
        }
        cursor = page.cursor;
    } while cursor != ();
    let asked_for = ctx.event.manual ?? false;
    kv::set(if asked_for { "report/asked" } else { "report/daily" }, days);
    kv::incr(`struck/${ctx.event.trigger_id}`);
    days
"#;

fn desk() -> Desk {
    let desk = Desk::new();
    // By Berlin's calendar one is of the next day already; summer time makes it two hours there, not one.
    for (number, (at, cents)) in [
        ("2026-01-30T22:59:59Z", 100),
        ("2026-01-30T23:00:00Z", 250),
        ("2026-01-31T12:00:00Z", 1000),
        ("2026-07-01T21:59:59Z", 1),
        ("2026-07-01T22:00:00Z", 2),
    ]
    .iter()
    .enumerate()
    {
        let sale = json!({ "at": at, "cents": cents });
        desk.does(&["kv", "set", &format!("sale/{number}"), &sale.to_string()]);
    }
    desk.deploys("report", REPORT, &[]);
    desk
}

fn sums() -> Value {
    json!({ "2026-01-30": 100, "2026-01-31": 1250, "2026-07-01": 1, "2026-07-02": 2 })
}

#[test]
fn a_person_gets_the_report_now() {
    let desk = desk();
    let seven = ["--cron", "0 7 * * *", "--zone", "Europe/Berlin", "--catch-up", "once"];
    let trigger = desk.triggers("report", &seven);
    let said = desk.does(&["trigger", "run", &trigger]);
    let execution = said.trim().rsplit(' ').next().unwrap();
    let shown = desk.json(&["executions", "show", execution, "--wait", "40"]);
    assert_eq!((&shown["status"], &shown["kind"]), (&json!("success"), &json!("cron")), "{shown}");
    assert_eq!(desk.value_once("report/asked", |_| true), sums());
    assert_eq!(desk.daemon.api("GET", "/apps/default/kv/report/daily", Value::Null).status, 404);
    desk.does(&["kv", "rm", "sale/2"]);
    let run = desk.daemon.done("POST", &format!("/apps/default/triggers/{trigger}/run"), Value::Null);
    let ended = desk.daemon.ended(run["execution_id"].as_str().unwrap());
    assert_eq!(ended["status"], "success", "{ended}");
    assert_eq!(desk.value_once("report/asked", |_| true)["2026-01-31"], 250);
    assert_eq!(desk.values("struck/"), [(trigger, json!(2))]);
}

#[test]
fn the_clock_makes_the_report() {
    let mut desk = desk();
    let trigger = desk.triggers("report", &["--cron", "* * * * * *", "--zone", "Europe/Berlin"]);
    assert_eq!(desk.value_once("report/daily", |_| true), sums());
    desk.does(&["kv", "set", "sale/9", r#"{"at": "2026-01-30T08:00:00+01:00", "cents": -30}"#]);
    desk.value_once("report/daily", |days| days["2026-01-30"] == 70);
    desk.daemon.kill_and_start_again();
    let before = desk.value_once(&format!("struck/{trigger}"), |_| true);
    desk.value_once(&format!("struck/{trigger}"), |count| count.as_i64() > before.as_i64());
    desk.does(&["trigger", "pause", &trigger]);
    desk.waits_for_all_work();
    // Whatever struck has one run, and each run has counted once.
    let count = desk.value_once(&format!("struck/{trigger}"), |_| true);
    let runs = desk.json(&["executions", "--script", "report", "--status", "success", "--limit", "0"]);
    assert_eq!(count, runs["items"].as_array().unwrap().len());
}
