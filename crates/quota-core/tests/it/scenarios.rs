//! Every rule of the three shipped products, played; and the player itself, which must see what is wrong.

use quota_core::catalog::{Catalog, shipped};
use quota_core::scenario::{Unplayable, run};
use std::path::{Path, PathBuf};

fn scenarios(product: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("catalogs")
        .join(product)
        .join("scenarios");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    files.sort();
    files
}

#[expect(
    clippy::disallowed_methods,
    reason = "the core reads no files; its tests have to"
)]
fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}

/// Plays all scenarios of a product; names every expectation that was not met.
fn play(product: &str) {
    let (_, catalog) = shipped()
        .into_iter()
        .find(|(name, _)| *name == product)
        .unwrap();
    let mut failures = Vec::new();
    let mut expectations = 0;
    for file in scenarios(product) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = read(&file);
        match run(catalog, &text) {
            Ok(report) => {
                if report.expectations == 0 {
                    failures.push(format!("{name}: expects nothing"));
                }
                expectations += report.expectations;
                failures.extend(
                    report
                        .failures
                        .iter()
                        .map(|failure| format!("{name}: {failure}")),
                );
            }
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {expectations} expectations:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(expectations > 0, "no scenario was found");
}

#[test]
fn candidate_chat_keeps_its_rules() {
    play("candidate-chat");
}

#[test]
fn applyx_keeps_its_rules() {
    play("applyx");
}

#[test]
fn resume_builder_keeps_its_rules() {
    play("resume-builder");
}

#[test]
fn shipped_catalogs_are_valid_and_of_their_products() {
    for (product, text) in shipped() {
        let catalog = Catalog::parse(text).unwrap_or_else(|faults| panic!("{product}: {faults:?}"));
        assert_eq!(catalog.product(), product);
    }
}

fn catalog(product: &str) -> Catalog {
    let mut shipped = shipped().into_iter();
    let (_, text) = shipped.find(|(name, _)| *name == product).unwrap();
    Catalog::parse(text).unwrap()
}

#[test]
fn prices_and_periods_are_those_of_the_products() {
    let sold = |product: &str| {
        let catalog = catalog(product);
        let plans = catalog.plans_on_sale().into_iter().map(|id| {
            let plan = catalog.plan(id).unwrap();
            let period = plan.period.and_then(|period| period.words());
            (id.to_owned(), plan.rank, plan.price, period)
        });
        plans.collect::<Vec<_>>()
    };
    let plan = |id: &str, rank: Option<u32>, price: Option<i64>, period: Option<&str>| {
        (id.to_owned(), rank, price, period.map(str::to_owned))
    };
    assert_eq!(sold("candidate-chat"), [plan("pro", Some(1), None, None)]);
    assert_eq!(
        sold("applyx"),
        [
            plan("basic", Some(1), Some(9_900), Some("month")),
            plan("pro", Some(2), Some(49_900), Some("month")),
            plan("pro_plus", Some(3), Some(548_900), Some("month")),
        ]
    );
    assert_eq!(
        sold("resume-builder"),
        [
            plan("unlock", None, Some(4_900), Some("21 days")),
            plan("one_time", Some(1), Some(4_900), Some("21 days")),
            plan("pro_monthly", Some(2), Some(19_900), Some("month")),
            plan("pro_yearly", Some(3), Some(199_000), Some("year")),
        ]
    );
}

#[test]
fn applyx_gates_its_routes_and_no_others() {
    let catalog = catalog("applyx");
    let routes = catalog.model().routes.iter();
    let routes: Vec<(&str, &str, &str)> = routes
        .map(|route| {
            assert_eq!(route.hold_seconds, None);
            (&*route.method, &*route.path, &*route.feature)
        })
        .collect();
    assert_eq!(
        routes,
        [
            ("POST", "/api/v1/resumes/upload", "resume_edits"),
            ("POST", "/api/v1/resumes/analyze", "resume_analyses"),
            ("POST", "/api/v1/ats/score", "resume_analyses"),
            ("POST", "/api/v1/ats/analyze", "resume_analyses"),
            ("POST", "/api/v1/interview/start", "interviews"),
            ("POST", "/api/v1/livekit/start-interview", "interviews"),
        ]
    );
    let page = catalog.model().usage_page.as_ref().unwrap();
    assert_eq!(page.path, "/api/v1/subscription/usage");
    assert_eq!(
        page.features,
        ["resume_edits", "resume_analyses", "interviews"]
    );
}

/// The outline in the API's description, without a plan of rank 0 and with a feature's limit but no feature.
const OUTLINE: &str = r#"
product = "applyx"
time_zone = "Asia/Kolkata"
[features.resume_edits]
message = "Resume limit reached"
[features.resume_customizations]
[plans.basic]
rank = 1
price = 9900
currency = "INR"
period = "month"
[plans.basic.limits]
resume_edits = { limit = 10, window = "period" }
resume_customizations = { limit = 20, window = "day" }
"#;

#[test]
fn the_outline_is_a_catalog() {
    Catalog::parse(OUTLINE).unwrap();
}

const SCENARIO: &str = r#"
title = "One that is wrong"

[[step]]
at = "2026-11-01T10:00:00+05:30"
note = "the first is free"
when = { consume = "resume_edits", key = "k1" }
then = { allowed = true, plan = "none", upgrade = ["basic"], denial = { status = 403, body = '{"error": {"message": "no", "code": "UPGRADE_REQUIRED"}}' }, recorded = ["usage.recorded"], useful = true }
"#;

#[test]
fn a_wrong_expectation_is_named_with_its_step() {
    let report = run(OUTLINE, SCENARIO).unwrap();
    assert_eq!((report.steps, report.expectations), (1, 7));
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    let at = "step 1 (line 4, 2026-11-01T10:00:00+05:30: the first is free)";
    assert_eq!(failures.len(), 4, "{failures:#?}");
    assert_eq!(
        failures[0],
        format!("{at}: allowed: expected true, came false")
    );
    assert!(
        failures[1].contains("denial.body: expected"),
        "{failures:#?}"
    );
    assert_eq!(
        failures[2],
        format!(
            "{at}: recorded[0]: expected \"usage.recorded\", came {}",
            failures[2].split("came ").nth(1).unwrap()
        )
    );
    assert!(failures[3].contains("useful: expected true, came no such member"));
}

#[test]
fn a_scenario_that_cannot_be_played_says_why() {
    let wrong = |scenario: &str| run(OUTLINE, scenario).unwrap_err().to_string();
    assert!(wrong("title = 1").contains("title"));
    assert!(wrong("title = \"x\"\nstep = [{ at = \"now\" }]").contains("\"now\" is no time"));
    let backwards = "title = \"x\"\n[[step]]\nat = \"2026-11-02T00:00:00Z\"\nwhen = { check = \"resume_edits\" }\n[[step]]\nat = \"2026-11-01T00:00:00Z\"";
    assert!(wrong(backwards).contains("forward in time"));
    let two = "title = \"x\"\n[[step]]\nat = \"2026-11-02T00:00:00Z\"\nwhen = { check = \"a\", consume = \"a\" }";
    assert!(wrong(two).contains("exactly one of"));
    let refused = "title = \"x\"\n[[step]]\nat = \"2026-11-02T00:00:00Z\"\ngiven = { type = \"usage.recorded\", data = { feature = \"dreams\" } }";
    assert!(wrong(refused).contains("unknown_feature"));
    assert!(matches!(
        run(
            "product = 1",
            "title = \"x\"\n[[step]]\nat = \"2026-11-02T00:00:00Z\""
        ),
        Err(Unplayable::Catalog(_))
    ));
}
