//! `qstore analyze`; what it measures is tested with the library, and in Python against another's figures.

use std::fs;

use crate::support::{Pair, json, run, succeed};

#[test]
fn tables_json_and_charts_agree() {
    let pair = Pair::new();
    let (bf16, int8, chart) = (pair.named("bf16"), pair.named("int8"), pair.path("chart.svg"));
    let analysis = json(&["analyze", &bf16, &int8, "--json", "--chart", &chart]);
    let given = &analysis["variants"][1]["measures"][1];
    assert_eq!(given["given"], "int8");
    let ours = given["quantised"]["bits_per_weight"]["ours"].as_f64().unwrap();
    let table = succeed(&["analyze", &bf16, &int8, "-q"]);
    assert!(table.contains(&format!("{ours:.3}")), "{ours} {table}");
    let chart = fs::read_to_string(chart).unwrap();
    assert!(chart.contains("bf16 given int8") && chart.contains("ZipNN-style"), "{chart}");
    // One variant alone is worth a look, too.
    let alone = json(&["analyze", &int8, "--json"]);
    assert_eq!(alone["variants"][0]["measures"], analysis["variants"][0]["measures"]);
    let tensors = succeed(&["analyze", &bf16, &int8, "--tensors"]);
    assert_eq!(tensors.matches("128 x 128").count(), 2 * 4 * 3, "{tensors}");
    // Of a store it says the same as of the folders that it was made of.
    let store = pair.path("store");
    succeed(&["pack", &bf16, &int8, "-o", &store]);
    let of_store = json(&["analyze", &store, "--json"]);
    assert_eq!(analysis["store"], of_store);
    let sum = of_store["sum"]["bits_per_weight"]["sum"].as_f64().unwrap();
    for arguments in [&["analyze", &store, "-q"][..], &["analyze", &bf16, &int8, "-q"]] {
        let shown = succeed(arguments);
        assert!(
            shown.contains(&format!("{sum:.3}")) && shown.contains("entropy of the weights of bf16"),
            "{shown}"
        );
    }
    let archived = json(&["analyze", &bf16, &int8, "--archive", "int8", "--json"]);
    assert_eq!(archived["store"]["variants"][1]["archived"], true, "{archived}");
}

#[test]
fn wrong_use_is_told_before_any_work() {
    let pair = Pair::new();
    let (bf16, results) = (pair.named("bf16"), pair.path("results"));
    let refused = |arguments: &[&str], why: &str| {
        let run = run(arguments);
        assert_eq!(run.status, 2, "{run:?}");
        assert!(run.stderr.contains(why) && run.stdout.is_empty(), "{run:?}");
    };
    refused(&["analyze"], "NAME=DIR");
    refused(&["analyze", &pair.path("bf16"), &bf16], "one store, or variants");
    for option in [&["--tensors"][..], &["--archive", "int8"], &["--levels", "2"], &["--dir", "."]] {
        refused(&[&["analyze", &pair.path("bf16")], option].concat(), "it is analysed as it is stored");
    }
    refused(&["analyze", &bf16, "--dir", &pair.path("none")], "--dir: there is no folder");
    refused(&["analyze", &bf16, "--given", "bf16:none"], "which is not there");
    // A chart takes the place of a chart alone, and lies in no folder that is read.
    let (kept, within) = (pair.path("kept.svg"), pair.path("bf16/chart.svg"));
    fs::write(&kept, "precious").unwrap();
    refused(&["analyze", &bf16, "--chart", &kept], "no chart");
    refused(&["analyze", &bf16, "--chart", &within], "only read");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "precious");
    let chart = pair.path("chart.svg");
    succeed(&["analyze", &bf16, "--chart", &chart]);
    succeed(&["analyze", &bf16, "--chart", &chart]);
    refused(&["analyze", &bf16, "--archive", "int8"], "no variant of that name");
    refused(&["analyze", &bf16, &bf16], "names must differ");
    refused(&["analyze", &bf16, "--chart", &pair.path("none/chart.svg")], "no folder");
    succeed(&["analyze", &bf16, "--resume", &results]);
    refused(&["analyze", &bf16, &pair.named("int8"), "--resume", &results], "not of int8, bf16");
}
