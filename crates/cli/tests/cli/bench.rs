//! `qstore bench`: that it measures, that it checks what it measures, and that it names what it cannot. No figure is
//! tested, and nothing needs a Python package.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Pair, run, succeed};

const NO_PYTHON: [&str; 2] = ["--python", "/no/such/python"];

fn names<'a>(report: &'a Value, list: &str) -> Vec<&'a str> {
    report[list].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect()
}

#[test]
fn peers_are_measured_and_the_report_is_written() {
    let pair = Pair::new();
    let (bf16, int8, folder, scratch) =
        (pair.named("bf16"), pair.named("int8"), pair.path("report"), pair.path("scratch"));
    fs::create_dir(&scratch).unwrap();
    let arguments =
        ["bench", &bf16, &int8, "--peers", "none,lz4,zstd,zipnn,ours", "--repeats", "1", "--json"];
    let more = ["--bandwidth", "2000,1000", "--threads", "2", "-o", &folder, "--dir", &scratch];
    let done = run(&[&arguments[..], &more, &NO_PYTHON].concat());
    assert_eq!(done.status, 0, "{done:?}");
    assert!(done.stderr.contains("the peer zipnn is absent"), "{done:?}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "the temporary folder is gone");

    assert_eq!(report["format_version"], 1);
    assert_eq!(report["settings"]["threads"], 2);
    assert!(report["machine"]["cores"].as_u64().unwrap() > 0);
    assert_eq!(names(&report, "peers"), ["none", "lz4", "zstd", "ours"]);
    assert_eq!(names(&report, "variants"), ["int8", "bf16"], "from few bytes to many");
    assert_eq!(names(&report, "loads"), ["low", "high", "both"]);
    let [absent] = &report["absent"].as_array().unwrap()[..] else { panic!("{report}") };
    assert!(absent["install"].as_str().unwrap().contains("pip install zipnn"), "{absent}");
    let dropped = report["settings"]["caches"].as_array().unwrap().len() == 2;
    assert!(dropped || report["left_out"][0].as_str().unwrap().contains("dropped"), "{report}");
    for peer in report["peers"].as_array().unwrap() {
        let loads = peer["loads"].as_array().unwrap();
        assert_eq!(loads.len(), 3 * (if dropped { 2 } else { 1 } + 2), "{peer}");
        for load in loads {
            assert!(load["seconds"]["median"].as_f64().unwrap() > 0.0, "{load}");
            assert_eq!(load["seconds"]["all"].as_array().unwrap().len(), 1);
            assert!(load["bytes_read"].as_u64().unwrap() > 0, "{load}");
            assert_eq!(load["peak_rss_bytes"].is_u64(), cfg!(target_os = "linux"));
        }
        assert!(peer["save"]["seconds"]["median"].as_f64().unwrap() > 0.0, "{peer}");
        assert!(!peer["version"].as_str().unwrap().is_empty());
    }
    let stored = |index: usize| report["peers"][index]["stored_bytes"].as_u64().unwrap();
    assert_eq!(Some(stored(0)), report["raw_bytes"].as_u64());
    assert!(stored(3) < stored(2) && stored(2) < stored(0), "{report}");

    let folder = Path::new(&folder);
    assert_eq!(
        report,
        serde_json::from_slice::<Value>(&fs::read(folder.join("report.json")).unwrap()).unwrap()
    );
    let text = fs::read_to_string(folder.join("report.md")).unwrap();
    for part in
        ["| QStore |", "**Absent: zipnn**", "![Stored size](sizes.svg)", "load-warm.svg", "1000 MiB/s"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    for line in text.lines().filter_map(|line| line.strip_prefix("![")) {
        let chart = line.split_once("](").unwrap().1.trim_end_matches(')');
        let svg = fs::read_to_string(folder.join(chart)).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("QStore"), "{chart}");
    }
}

#[test]
fn people_get_tables() {
    let pair = Pair::new();
    let arguments =
        ["bench", &pair.named("bf16"), "--peers", "ours,none", "--repeats", "2", "--cache", "warm"];
    let text = succeed(&arguments);
    for part in ["Storing all variants", "no compression", "QStore", "high (bf16)", "100.0 %", "2 repeats"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("dropped") && !text.contains("both"), "{text}");
}

#[test]
#[cfg(unix)]
fn a_peer_that_gives_back_something_else_fails_the_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let pair = Pair::new();
    // An interpreter that claims to have done everything, and one day to have found a difference.
    let python = pair.path("python");
    let script = r#"#!/bin/sh
case "$(cat)" in
    *describe*) echo '{"version":"1"}' ;;
    *save*) echo '{"seconds":1,"bytes_read":0,"peak_rss_bytes":null,"different":null}' ;;
    *) echo '{"seconds":1,"bytes_read":1,"peak_rss_bytes":null,"different":"bf16: lm_head.weight: its bytes differ"}' ;;
esac
"#;
    fs::write(&python, script).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let folder = pair.path("report");
    let done =
        run(&["bench", &pair.named("bf16"), "--peers", "safetensors", "--python", &python, "-o", &folder]);
    assert_eq!(done.status, 1, "{done:?}");
    assert!(done.stderr.contains("the peer safetensors gave back something else"), "{done:?}");
    assert!(done.stderr.contains("lm_head.weight"), "{done:?}");
    assert_eq!(done.stdout, "");
    assert!(!fs::exists(&folder).unwrap(), "no report of wrong results");
}
