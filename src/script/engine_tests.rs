//! What scripts see, and what comes of what they give: the specification of a run.

use std::time::Duration;

use crate::model::Row;

use super::testing::{fails, gives, on_a_bench, row, run, run_with};
use super::{FaultKind, Limits, compile};

#[test]
fn requests_are_maps() {
    gives("#{ hello: request.params.name }", r#"{"hello":"ada"}"#);
    gives(
        "request",
        r#"{"body":{"n":10,"x":{"y":[1,2,3]}},"headers":{"host":"example.org","x-a":"1"},"method":"POST","params":{"name":"ada"},"path":"/hello/ada","query":{"q":"1","r":"a b"},"rest":"re/st"}"#,
    );
    gives("request.headers[\"x-a\"] + request.query.r + request.rest", "\"1a bre/st\"");
    gives(
        "[ctx.request.body.x.y[1], request.body.x.y.len(), type_of(request), request == ctx.request]",
        "[2,3,\"map\",true]",
    );
    gives("request.nothing", "null");
    gives("request.keys().len() + ctx.keys().len()", "20");
}

#[test]
fn ctx_has_what_the_contract_says() {
    let id = |n: u32| format!("00000000-0000-0000-0000-00000000000{n}");
    gives(
        "let c = ctx; c.remove(\"request\"); c",
        &format!(
            r#"{{"app_id":"{}","attempt":1,"event":null,"execution_id":"{}","invocation":"http","is_dead_letter_handler":false,"principal":{{"id":"{}","name":"key"}},"request_id":"req-1","root_execution_id":"{}","script_id":"{}","script_name":"hello","trigger_depth":0}}"#,
            id(2),
            id(1),
            id(4),
            id(1),
            id(3)
        ),
    );
    let nobody = Row { principal: None, ..row() };
    let outcome = run_with("type_of(ctx.principal)", nobody, Limits::default());
    assert_eq!(&*outcome.result.unwrap().body, b"\"()\"");
}

#[test]
fn both_are_visible_everywhere() {
    gives("fn f() { request.body.n + ctx.attempt } f()", "11");
    gives("fn f(x) { x.y[0] + request.body.n } f(request.body.x)", "11");
    gives("let f = || request.body.n; f.call()", "10");
    gives("request.body.x.y.map(|i| i * request.body.n)", "[10,20,30]");
    gives(
        "request.body.x.y.map(|i| request.body.x.y.map(|j| i * j + request.body.n + ctx.attempt))",
        "[[12,13,14],[13,15,17],[14,17,20]]",
    );
    gives("fn f() { request.body.x.y.map(|i| i + request.body.n) } f()", "[11,12,13]");
    gives("let f = || { let g = || ctx.request.body.n; g.call() }; f.call()", "10");
    gives(
        "let s = 0; for i in request.body.x.y { if i > 1 { let t = i; s += t * request.body.n; } } s",
        "50",
    );
}

#[test]
fn names_may_be_reused() {
    gives("let request = 5; request", "5");
    gives("fn f(request) { request + 1 } f(1)", "2");
    gives("let ctx = #{ a: 1 }; ctx.a = 2; ctx.a", "2");
    gives("let request = 5; let f = || request; f.call()", "5");
    gives("request.body.x.y.map(|request| request + 1)", "[2,3,4]");
    gives("let request = request; request.n = 5; let f = || request.n; f.call() + request.n", "10");
    gives("fn f(ctx) { ctx.n = 5; let g = || ctx.n; g.call() } f(ctx)", "5");
}

#[test]
fn copies_may_be_changed_and_originals_not() {
    gives(
        "let r = request; r.x = 1; r.body.n = 2; r.headers.remove(\"host\"); [r.x, r.body.n, r.headers.len(), request.body.n]",
        "[1,2,1,10]",
    );
    gives("let b = request.body; b.x.y.push(4); b.z = #{}; b.x.y", "[1,2,3,4]");
    gives("fn f(b) { b.n = 3; b } f(request.body).n", "3");
    gives("let m = #{ a: request.body }; m.a.n = 5; m.a.n", "5");
    gives("let a = [request.body]; a[0].x.y.push(1); a[0].x.y.len()", "4");
    fails("request = 5", FaultKind::Runtime, "request");
    fails("ctx.attempt = 5", FaultKind::Runtime, "Cannot modify constant ctx");
    fails("ctx.x = 5", FaultKind::Runtime, "ctx cannot be changed; copy it first: let copy = ctx;");
    fails("request.x = || 1; 7", FaultKind::Runtime, "request cannot be changed");
    fails("ctx.clear()", FaultKind::Runtime, "clear");
}

#[test]
fn logs_are_kept_in_order() {
    let outcome = run(
        "print(\"a\"); debug(\"b\"); log::info(#{ n: 1 }); log::warn(()); log::error(1.5); fn f() { log::info('d') } f(); log::debug(\"e\")",
    );
    let lines: Vec<(&str, &str)> = outcome.logs.iter().map(|line| (&*line.level, &*line.message)).collect();
    let debug = lines[1].1;
    assert!(debug.contains("\"b\""), "{debug}");
    assert_eq!(
        lines,
        [
            ("info", "a"),
            ("debug", debug),
            ("info", "#{\"n\": 1}"),
            ("warn", ""),
            ("error", "1.5"),
            ("info", "d"),
            ("debug", "e")
        ]
    );
    let outcome = run("loop { print(\"x\") }");
    assert_eq!(outcome.logs.len(), 1001);
    assert!(outcome.logs[1000].message.ends_with("dropped: the log is full"), "{:?}", outcome.logs[1000]);
}

#[test]
fn fields_may_have_the_names_of_words_that_the_language_only_reserves() {
    for word in ["new", "default", "public", "case", "match", "is", "with", "null", "static", "async", "use"]
    {
        gives(&format!("let e = #{{ \"{word}\": 1 }}; e.{word} = e.{word} + 1; e?.{word}"), "2");
    }
    gives("let f = |n| n + 1; [f.call(1), 5.type_of()]", "[2,\"i64\"]");
    gives("let e = #{ a: #{ \"new\": [7] } }; fn f(e) { e.a.new[0] } f(e)", "7");
}

#[test]
fn throwing_is_a_runtime_fault() {
    let fault = fails("\n  throw \"sad\"", FaultKind::Runtime, "Runtime error: sad (line 2, position 3)");
    assert_eq!((fault.line, fault.column, fault.permanent), (Some(2), Some(3), false));
    fails(
        "throw #{ code: 7, why: [1, ()] }",
        FaultKind::Runtime,
        r#"Runtime error: {"code":7,"why":[1,null]} (line 1"#,
    );
    fails("fn f() { throw 5 }\nf()", FaultKind::Runtime, "Runtime error: 5 (line 1, position 10)");
    fails("throw || 1", FaultKind::Runtime, "Runtime error: Fn(anon$");
    fails("nope(1)", FaultKind::Runtime, "Function not found: nope (i64) (line 1");
    fails("nope", FaultKind::Runtime, "Variable not found: nope (line 1");
    fails("1 / 0", FaultKind::Runtime, "Division by zero");
    let long = fails("let s = \"x\"; s.pad(100000, 'x'); throw s", FaultKind::Runtime, "Runtime error: xxx");
    assert!(long.message.len() < 4300);
    gives("let x = 0; try { throw 1 } catch (e) { x = e; } x", "1");
}

#[test]
fn fail_is_permanent_and_retry_after_waits() {
    let fault = fails("try { fail(\"no such order\") } catch { } 1", FaultKind::Runtime, "no such order");
    assert!(fault.permanent && fault.line == Some(1));
    let fault = fails("retry_after(30); retry_after(60); throw 1", FaultKind::Runtime, "1");
    assert_eq!((fault.retry_after, fault.permanent), (Some(Duration::from_secs(60)), false));
    gives("retry_after(86400); 1", "1");
    fails("retry_after(-1)", FaultKind::Runtime, "retry_after: takes 0 to 86400 seconds, not -1");
    fails("retry_after(86401)", FaultKind::Runtime, "86401");
}

#[test]
fn sources_that_do_not_compile_say_where() {
    #[track_caller]
    fn check(source: &str, why: &str, line: usize) {
        let source = source.parse().unwrap();
        let error = on_a_bench(move || compile(&source).unwrap_err());
        assert!(error.message.contains(why) && error.line == line, "{error:?}");
    }
    check("let x = ;", "", 1);
    check("\n\nlet", "", 3);
    check("eval(\"1\")", "eval", 1);
    check("import \"x\" as y;", "import", 1);
    check("\"unterminated", "", 1);
}

#[test]
fn values_without_a_json_form_are_refused() {
    fails("|| 1", FaultKind::Validation, "the value returned holds a closure, which has no JSON form");
    fails("#{ a: [ctx, || ctx] }", FaultKind::Validation, "closure");
    fails("let f = (); f = || f; f", FaultKind::Validation, "closure");
    fails("fn f() {} #{ f: f }", FaultKind::Validation, "closure");
    fails("timestamp()", FaultKind::Validation, "timestamp");
    fails("#{ status_code: 1e3 }", FaultKind::Validation, "status_code");
    gives("[0.0 / 0.0, 1.0 / 0.0, 9223372036854775807, 1e300]", "[null,null,9223372036854775807,1e+300]");
    gives("[ctx.attempt, 'x', 1 == 1]", "[1,\"x\",true]");
    gives("exit(42); 1", "42");
}
