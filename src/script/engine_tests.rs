//! What scripts see, and what they cannot do: the specification of a run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::model::{Body, Ended, Row};

use super::testing::{fails, gives, on_a_bench, row, run, run_with};
use super::{Bench, Cancel, Control, FaultKind, Input, Limits, compile};

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
        "print(\"a\"); debug(\"b\"); log::info(#{ n: 1 }); log::warn(()); log::error(1.5); fn f() { log::info('d') } f()",
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
            ("info", "d")
        ]
    );
    let outcome = run("loop { print(\"x\") }");
    assert_eq!(outcome.logs.len(), 1001);
    assert!(outcome.logs[1000].message.ends_with("dropped: the log is full"), "{:?}", outcome.logs[1000]);
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
    fails("retry_after(-1)", FaultKind::Runtime, "retry_after takes 0 to 86400 seconds, not -1");
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
fn deep_and_long_sources_are_refused_or_run() {
    let deep = |open: &str, middle: &str, close: &str, times: usize| {
        format!("{}{middle}{}", open.repeat(times), close.repeat(times))
    };
    let sources = [
        deep("(", "1", ")", 10_000),
        deep("[", "1", "]", 10_000),
        deep("{", "1", "}", 10_000),
        deep("#{a:", "1", "}", 10_000),
        deep("!", "true", "", 50_000),
        deep("-", "1", "", 50_000),
        deep("if true {", "1", "}", 5_000),
        deep("|x|", "1", "", 10_000),
        deep("fn f() {", "1", "}", 5_000),
        deep("`${", "1", "}`", 10_000),
        deep("f(", "1", ")", 10_000),
        deep("while true { break ", "1", "}", 2_000),
        deep("switch 1 { 1 => ", "1", "}", 2_000),
        format!("1{}", "+1".repeat(30_000)),
        format!("true{}", "&&true".repeat(10_000)),
        format!("1{}", "??1".repeat(20_000)),
        format!("1{}", "-1".repeat(30_000)),
        format!("\"a\"{}", "+\"a\"".repeat(16_000)),
        format!("let x = #{{}}; x{}", ".a".repeat(30_000)),
        format!("let x = #{{}}; x{}", "?.a".repeat(20_000)),
        format!("let x = []; x{}", "[0]".repeat(20_000)),
        format!("let x = 1; x{}", ".abs()".repeat(10_000)),
        format!("if false {{}} {}", "else if false {}".repeat(4_000)),
        format!("let x = 1; x = {} 1", "x = ".repeat(10_000)),
        format!("[{}1]", "1,".repeat(30_000)),
        "let x = 1;".repeat(6_500),
        "1;".repeat(32_000),
        format!(
            "switch 1 {{ {} _ => 0 }}",
            (0..6_000)
                .map(|i| format!("{i}=>{i},"))
                .collect::<String>()
                .chars()
                .take(60_000)
                .collect::<String>()
        ),
        (0..2_500).map(|i| format!("fn f{i}() {{ {i} }}\n")).collect::<String>(),
        "/*".repeat(30_000),
        deep("/*", "", "*/", 16_000),
        "\u{0}\u{1}".repeat(10_000),
    ];
    for source in sources {
        let head: String = source.chars().take(30).collect();
        let source = source.parse().unwrap();
        let began = Instant::now();
        on_a_bench(move || {
            if let Ok(program) = compile(&source) {
                let input = Input { row: Arc::new(row()), deadline: Instant::now() + Duration::from_secs(5) };
                drop(Bench::new().run(&program, input, &Limits::default(), &Control::default()));
            }
        });
        assert!(began.elapsed() < Duration::from_secs(3), "{head} took {:?}", began.elapsed());
    }
}

/// Limits small enough that going over twice the memory shows.
fn small() -> Limits {
    Limits { memory_bytes: 2 * 1024 * 1024, operations: 2_000_000, ..Limits::default() }
}

/// Runs a bomb within `small()` and 500 ms; it must end in time, within twice its memory, with one of these faults.
#[track_caller]
fn bomb_with(source: &str, row: Row, kinds: &[FaultKind]) {
    let text = source.to_owned();
    let outcome = on_a_bench(move || {
        let program = compile(&text.parse().unwrap()).unwrap_or_else(|error| panic!("{error}"));
        let input = Input { row: Arc::new(row), deadline: Instant::now() + Duration::from_millis(500) };
        Bench::new().run(&program, input, &small(), &Control::default())
    });
    let kind = outcome.result.as_ref().err().map(|fault| fault.kind);
    assert!(kinds.is_empty() || kind.is_some_and(|kind| kinds.contains(&kind)), "{source}: {outcome:?}");
    assert!(outcome.peak_bytes <= 2 * small().memory_bytes, "{source}: held {} bytes", outcome.peak_bytes);
    assert!(outcome.duration < Duration::from_millis(1000), "{source}: took {:?}", outcome.duration);
}

#[track_caller]
fn bomb(source: &str, kind: FaultKind) {
    bomb_with(source, row(), &[kind]);
    // No limit may be caught.
    bomb_with(&format!("fn attempt() {{ {source} }} try {{ attempt() }} catch (e) {{ }} 1"), row(), &[kind]);
}

#[test]
fn endless_work_ends() {
    use FaultKind::{Operations, Runtime, Timeout};
    bomb("loop { }", Operations);
    bomb("let i = 0; while true { i += 1; }", Operations);
    bomb("loop { try { throw 1 } catch { } }", Operations);
    bomb("let r = |n, f| { if n > 0 { f.call(n - 1, f) } else { 0 } }; r.call(1000, r)", Runtime);
    bomb("[1, 2, 3].map(|x| { loop { } })", Operations);
    bomb("let a = []; a.pad(1000, 0); loop { a.map(|x| { let y = x; y * 2 }); }", Operations);
    bomb("let a = []; a.pad(100, 1); a.sort(|x, y| { loop { } }); 1", Operations);
    bomb("sleep(1000000)", Timeout);
    bomb("sleep(1e300)", Timeout);
    bomb("loop { sleep(0.001) }", Timeout);
    bomb("loop { sleep(9223372036854775807) }", Timeout);
}

#[test]
fn recursion_ends() {
    let fault = fails("fn f(n) { f(n + 1) } f(0)", FaultKind::Runtime, "deeper than 32 levels");
    assert!(!fault.permanent);
    fails("fn f() { try { f() } catch { f() } } f()", FaultKind::Runtime, "deeper than 32 levels");
    gives("fn f(n) { if n == 0 { 0 } else { 1 + f(n - 1) } } f(30)", "30");
    let limits = Limits { call_levels: 64, ..Limits::default() };
    let source = "fn f(n) { [[[[((((f(n + 1)))))]]]] } f(0)";
    assert_eq!(run_with(source, row(), limits).result.unwrap_err().kind, FaultKind::Runtime);
}

#[test]
fn growth_ends() {
    use FaultKind::{Memory, Runtime};
    bomb("let s = \"x\"; loop { s += s; }", Runtime);
    bomb("let s = \"x\"; loop { s = s + s; }", Runtime);
    bomb("let s = \"x\"; loop { s = `${s}${s}`; }", Runtime);
    bomb("let a = []; loop { a.push(a.len()); }", Runtime);
    bomb("let a = [1]; loop { a += a; }", Runtime);
    bomb("let a = [1]; loop { a.append(a); }", Runtime);
    bomb("let a = []; a.pad(9223372036854775807, 1)", Runtime);
    bomb("let a = []; let b = []; b.pad(1000, 1); a.pad(6000, b)", Memory);
    bomb("let s = \"x\"; s.pad(9223372036854775807, 'x')", Runtime);
    bomb("let s = \"x\"; s.pad(9223372036854775807, \"xy\")", Runtime);
    bomb("blob(9223372036854775807)", Runtime);
    bomb("let b = blob(10); b.pad(9223372036854775807, 1)", Runtime);
    bomb("let b = blob(5000, 1); loop { b += b; }", Runtime);
    bomb("let s = \"x\"; s.pad(100000, 'x'); s.replace(\"x\", s)", Runtime);
    bomb("let s = \"x\"; s.pad(100000, 'x'); s.replace('x', s)", Runtime);
    bomb("let s = \"x\"; s.pad(100000, 'x'); s.replace(\"\", s)", Runtime);
    bomb("let s = \"x\"; s.pad(100000, 'x'); s.split(\"\")", Runtime);
    bomb("let s = \"x\"; s.pad(100000, 'x'); s.to_chars()", Runtime);
}

#[test]
fn growth_by_index_ends() {
    use FaultKind::{Memory, Operations};
    bomb("let m = #{}; let i = 0; loop { m[`${i}`] = i; i += 1; }", Memory);
    bomb(
        "let m = #{}; let s = \"x\"; s.pad(100000, 'x'); let i = 0; loop { m[`${i}`] = s + i; i += 1; }",
        Memory,
    );
    bomb("let a = []; a.pad(6000, 0); for i in 0..6000 { let b = []; b.pad(1000, i); a[i] = b; }", Memory);
    bomb("let m = #{}; loop { m[\"a\"] = m; }", Memory);
    bomb("let m = #{}; let i = 0; loop { m[`k${i}`] = m; i += 1; }", Memory);
    bomb("let f = |x| x; loop { let g = f; f = || g.call(1); }", Memory);
    bomb("let f = |x| x; loop { f = f.curry(f); }", Memory);
    bomb("loop { let f = (); let s = \"x\"; s.pad(1000, 'x'); f = || [s, f]; }", Memory);
    bomb("let a = []; loop { let x = a; let y = x; }", Operations);
}

#[test]
fn printing_is_bounded() {
    let many =
        "let s = \"x\"; s.pad(100000, 'x'); let a = []; a.pad(5000, 0); for i in 0..5000 { a[i] = s; }";
    for print in [
        "print(a)",
        "debug(a)",
        "`${a}`",
        "\"\" + a",
        "a + \"\"",
        "a.to_string()",
        "a.to_debug()",
        "log::info(`${a}`)",
        "let t = \"\"; t += a;",
    ] {
        bomb_with(&format!("{many} {print}; 1"), row(), &[FaultKind::Runtime]);
    }
    bomb_with(&format!("{many} to_json(a)"), row(), &[FaultKind::Runtime]);
    bomb_with(&format!("{many} a"), row(), &[FaultKind::Validation, FaultKind::Memory]);
    bomb_with(&format!("{many} throw a"), row(), &[FaultKind::Runtime]);
    bomb_with(&format!("{many} fail(a)"), row(), &[FaultKind::Runtime]);
    assert!(run(&format!("{many} log::info(a)")).result.is_ok());
}

#[test]
fn large_bodies_are_bounded() {
    let body = |body: Body| {
        let mut row = row();
        row.request.body = body;
        row
    };
    let json = |text: String| body(Body::Json(Bytes::from(text)));
    let text = || body(Body::Text(Bytes::from("x".repeat(1_900_000))));
    bomb_with("request.method", json(format!("[{}[]]", "[],".repeat(3_000_000))), &[FaultKind::Memory]);
    bomb_with("ctx.attempt", json(format!("[{}[]]", "[],".repeat(3_000_000))), &[FaultKind::Memory]);
    bomb_with(
        "fn f() { try { request } catch { } } f()",
        json(format!("\"{}\"", "x".repeat(10_000_000))),
        &[FaultKind::Memory],
    );
    bomb_with("request.body", body(Body::Raw(Bytes::from(vec![1; 10_000_000]))), &[FaultKind::Memory]);
    let untouched = run_with("1", json(format!("[{}[]]", "[],".repeat(3_000_000))), small());
    assert_eq!(&*untouched.result.unwrap().body, b"1");
    for source in [
        "s.len()",
        "s.crop(1)",
        "s.sub_string(1)",
        "s.split(\"x\")",
        "s.replace('x', \"yy\")",
        "s += s",
        "for c in s { }",
        "s.chars()",
        "s.to_upper()",
        "s.index_of('y', 1)",
        "s.pop(3)",
        "s.to_debug()",
        "s.to_chars()",
        "s.to_blob()",
        "s.bytes",
    ] {
        bomb_with(&format!("let s = request.body; {source}; 1"), text(), &[]);
    }
    let raw = || body(Body::Raw(Bytes::from(vec![1; 1_900_000])));
    for source in ["b.to_array()", "`${b}`", "b.as_string()", "b += b", "b.to_json()"] {
        bomb_with(&format!("let b = request.body; {source}; 1"), raw(), &[]);
    }
    let echoed = run_with("request.body", text(), Limits::default());
    assert_eq!(echoed.result.unwrap().body.len(), 1_900_002);
}

#[test]
fn json_functions_are_bounded() {
    gives(r#"parse_json("{\"a\":[1,2.5,null]}")"#, r#"{"a":[1,2.5,null]}"#);
    gives(r#"#{ a: [1, 2.5, ()] }.to_json() + [1].to_json()"#, r#""{\"a\":[1,2.5,null]}[1]""#);
    gives("let x = 0; try { parse_json(\"{\") } catch { x = 1; } x", "1");
    bomb(
        "let s = \"[[]\"; s.pad(120000, \",[]\"); s += \"]\"; let a = []; loop { a = [a, parse_json(s)]; }",
        FaultKind::Memory,
    );
    fails("parse_json(\"[\" + \"x\")", FaultKind::Runtime, "parse_json: ");
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

#[test]
fn closures_that_hold_each_other_are_counted() {
    let leaky = "let s = \"x\"; s.pad(1000, 'x'); let f = (); f = || [f, s]; 1";
    let outcome = run(leaky);
    assert!(outcome.leaked_bytes > 1000, "{outcome:?}");
    for source in [
        "1",
        "#{ hello: request.params.name }",
        "let f = || ctx; f.call()",
        "throw \"x\"",
        "print(ctx); log::warn(1)",
        "loop { }",
        "ctx.f = || ctx; 1",
        "fn f() { request } f()",
    ] {
        on_a_bench(move || {
            let program = compile(&source.parse().unwrap()).unwrap();
            let row = Arc::new(row());
            let mut bench = Bench::new();
            for round in 0..3 {
                let input = Input { row: row.clone(), deadline: Instant::now() + Duration::from_secs(5) };
                let outcome = bench.run(&program, input, &Limits::default(), &Control::default());
                // The first run of a bench may fill caches of the interpreter.
                assert!(round == 0 || outcome.leaked_bytes == 0, "{source}: {outcome:?}");
            }
        });
    }
}

#[test]
fn values_may_nest_as_deep_as_their_limits() {
    let nested = "let a = []; for i in 0..9000 { let b = [()]; b[0] = a; a = b; }";
    for end in ["1", "a", "`${a}`.len()", "let b = a; b == a", "throw a"] {
        drop(run(&format!("{nested} {end}")));
    }
    let limits = Limits {
        array_items: 100_000,
        map_entries: 50_000,
        operations: 100_000_000,
        memory_bytes: 64 * 1024 * 1024,
        ..Limits::default()
    };
    for source in [
        "let a = []; for i in 0..20000 { let b = [()]; b[0] = a; a = b; } a",
        "let m = #{}; for i in 0..20000 { let n = #{}; n[\"a\"] = m; m = n; } m",
        "let f = |x| x; loop { let g = f; f = || g.call(1); }",
        "let f = |x| x; loop { f = f.curry(f); }",
    ] {
        let outcome = run_with(source, row(), limits.clone());
        println!("{source}: {:?} {:?} {}", outcome.result.is_ok(), outcome.duration, outcome.peak_bytes);
    }
}

#[test]
fn outside_reasons_end_a_run() {
    for (reason, kind) in [(Cancel::Operator, FaultKind::Cancelled), (Cancel::Drain, FaultKind::Drain)] {
        for source in ["loop { }", "sleep(100)", "try { sleep(100) } catch { } 1"] {
            let control = Control::default();
            let handle = control.clone();
            let canceller = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                handle.cancel(reason);
            });
            let outcome = on_a_bench(move || {
                let program = compile(&source.parse().unwrap()).unwrap();
                let input =
                    Input { row: Arc::new(row()), deadline: Instant::now() + Duration::from_secs(10) };
                let limits = Limits { operations: u64::MAX, ..Limits::default() };
                Bench::new().run(&program, input, &limits, &control)
            });
            canceller.join().unwrap();
            assert_eq!(outcome.result.unwrap_err().kind, kind, "{source}");
            assert!(outcome.duration < Duration::from_millis(500));
        }
    }
    let late = on_a_bench(|| {
        let program = compile(&"print(1); 1".parse().unwrap()).unwrap();
        let input = Input { row: Arc::new(row()), deadline: Instant::now() };
        Bench::new().run(&program, input, &Limits::default(), &Control::default())
    });
    assert_eq!((late.result.unwrap_err().kind.ended(), late.logs.len()), (Ended::Timeout, 0));
}

#[test]
fn a_bench_is_clean_for_the_next_run() {
    on_a_bench(|| {
        let mut bench = Bench::new();
        let mut go = |source: &str| {
            let program = compile(&source.parse().unwrap()).unwrap();
            let input = Input { row: Arc::new(row()), deadline: Instant::now() + Duration::from_secs(5) };
            bench.run(&program, input, &Limits::default(), &Control::default())
        };
        for bad in [
            "loop { }",
            "fail(1)",
            "let s = \"x\"; loop { s += s; }",
            "throw 1",
            "retry_after(5); print(1); ctx.x = 1; throw 2",
        ] {
            assert!(go(bad).result.is_err());
            let good = go("fn f() { 1 } f() + ctx.attempt");
            assert_eq!(&*good.result.unwrap().body, b"2");
            assert!(good.logs.is_empty() && good.operations < 20);
        }
    });
}
