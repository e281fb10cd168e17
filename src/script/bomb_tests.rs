//! What scripts cannot do: work without end, grow without bound, take the bench with them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::model::{Body, Ended, Row};

use super::testing::{fails, gives, on_a_bench, row, run, run_with};
use super::{Bench, Cancel, Control, FaultKind, Input, Limits, compile};

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
        // The management API compiles on threads of 2 MiB; half of that is enough.
        let compiler = std::thread::Builder::new().stack_size(1024 * 1024).spawn(move || compile(&source));
        let compiled = compiler.unwrap().join().unwrap();
        on_a_bench(move || {
            if let Ok(program) = compiled {
                let input = Input {
                    row: Arc::new(row()),
                    deadline: Instant::now() + Duration::from_secs(5),
                    world: None,
                };
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
        let input =
            Input { row: Arc::new(row), deadline: Instant::now() + Duration::from_millis(500), world: None };
        Bench::new().run(&program, input, &small(), &Control::default())
    });
    let kind = outcome.result.as_ref().err().map(|fault| fault.kind);
    assert!(kinds.is_empty() || kind.is_some_and(|kind| kinds.contains(&kind)), "{source}: {outcome:?}");
    assert!(outcome.peak_bytes <= 2 * small().memory_bytes, "{source}: held {} bytes", outcome.peak_bytes);
    assert!(outcome.duration < Duration::from_millis(2000), "{source}: took {:?}", outcome.duration);
}

#[track_caller]
fn bomb(source: &str, kind: FaultKind) {
    // On a busy machine the clock may be first.
    let kinds = [kind, FaultKind::Timeout];
    bomb_with(source, row(), &kinds);
    // No limit may be caught.
    bomb_with(&format!("fn attempt() {{ {source} }} try {{ attempt() }} catch (e) {{ }} 1"), row(), &kinds);
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
                let input = Input {
                    row: row.clone(),
                    deadline: Instant::now() + Duration::from_secs(5),
                    world: None,
                };
                let outcome = bench.run(&program, input, &Limits::default(), &Control::default());
                // The first run of a bench may fill caches of the interpreter.
                assert!(round == 0 || outcome.leaked_bytes == 0, "{source}: {outcome:?}");
            }
        });
    }
}

#[test]
fn values_may_nest_as_deep_as_their_limits() {
    let nested = "let a = []; for i in 0..3000 { let b = [()]; b[0] = a; a = b; }";
    for end in ["1", "a", "`${a}`.len()", "let b = a; b == a", "throw a"] {
        drop(run(&format!("{nested} {end}")));
    }
    let limits = Limits { operations: u64::MAX, memory_bytes: 64 * 1024 * 1024, ..Limits::default() };
    let chain = "let f = |x| x; loop { let g = f; f = || g.call(1); }";
    let fault = run_with(chain, row(), limits).result.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Memory);
}

#[test]
fn a_panic_of_native_code_is_a_fault() {
    on_a_bench(|| {
        let mut bench = Bench::new();
        bench.panic_on("explode");
        let mut go = |source: &str| {
            let program = compile(&source.parse().unwrap()).unwrap();
            let input = Input {
                row: Arc::new(row()),
                deadline: Instant::now() + Duration::from_secs(5),
                world: None,
            };
            bench.run(&program, input, &Limits::default(), &Control::default())
        };
        let fault = go("print(1); try { explode() } catch { } 1").result.unwrap_err();
        assert_eq!((fault.kind, &*fault.message), (FaultKind::Panic, "the interpreter panicked: boom"));
        assert!(go("1").result.is_ok());
        assert_eq!(go("explode()").result.unwrap_err().kind, FaultKind::Runtime, "the engine is a new one");
    });
    gives("let a = []; for i in 0..100 { a.push(i * 7 % 13); } a.sort(|x, y| 1); a.len()", "100");
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
                let input = Input {
                    row: Arc::new(row()),
                    deadline: Instant::now() + Duration::from_secs(10),
                    world: None,
                };
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
        let input = Input { row: Arc::new(row()), deadline: Instant::now(), world: None };
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
            let input = Input {
                row: Arc::new(row()),
                deadline: Instant::now() + Duration::from_secs(5),
                world: None,
            };
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
