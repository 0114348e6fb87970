//! The ring, its numbers, its pages, and who waits for more.

use super::*;

fn abort(scene: &Scene) {
    scene.sign(0, "+odown");
    scene.timeline.armed(false, scene.at(1));
}

#[test]
fn the_ring_keeps_the_newest_and_numbers_go_on() {
    let scene = Scene::new();
    for _ in 0..MOST_EVENTS + 10 {
        abort(&scene);
    }
    let page = scene.log.page(None, MOST_EVENTS);
    assert_eq!((page.events.len(), page.last), (MOST_EVENTS, 523));
    assert_eq!((page.events[0].seq, page.events[511].seq), (12, 523));
    assert!(page.events.windows(2).all(|two| two[0].seq + 1 == two[1].seq));
    assert_eq!(scene.log.page(Some(3), 2).events[0].seq, 12, "what is gone is skipped");
    assert_eq!(scene.told.ended.load(Ordering::Relaxed), 523);
}

#[tokio::test]
async fn waiting_ends_with_an_event_or_with_time() {
    let scene = Arc::new(Scene::new());
    let begun = Instant::now();
    scene.log.wait(0, Duration::from_secs(5)).await;
    scene.log.wait(2, Duration::from_secs(5)).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "there is one already, and 2 was never given");
    scene.log.wait(1, Duration::from_millis(100)).await;
    assert!(begun.elapsed() >= Duration::from_millis(100));
    let waiting = tokio::spawn({
        let scene = Arc::clone(&scene);
        async move { scene.log.wait(1, Duration::from_secs(60)).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    abort(&scene);
    tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    scene.log.close();
    tokio::time::timeout(Duration::from_secs(5), scene.log.wait(99, Duration::from_secs(60))).await.unwrap();
}

#[test]
fn closing_ends_what_is_open_once() {
    let mut scene = Scene::new();
    scene.sign(0, "+odown");
    let aftermath = scene.follow(5, open(2, 8));
    scene.saw(9, view(1, 2, 8, true));
    scene.log.close();
    drop(aftermath);
    let Scene { log, timeline, .. } = scene;
    drop(timeline);
    let outcomes: Vec<_> = log.page(None, 9).events.iter().map(|event| event.outcome).collect();
    assert_eq!(outcomes, [Outcome::Opened, Outcome::Switched, Outcome::Interrupted]);
}

#[test]
fn words_are_those_of_the_json_and_unknown_ones_are_understood() {
    for stage in Stage::ALL {
        assert_eq!(serde_json::to_value(stage).unwrap(), stage.word());
    }
    for outcome in Outcome::ENDED {
        assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.word());
    }
    let newer = r#"{"seq":3,"group":"g","outcome":"exploded","more":1,"stages":[{"stage":"warp","offset_us":5}]}"#;
    let event: Event = serde_json::from_str(newer).unwrap();
    assert_eq!((event.outcome, event.stages[0].stage), (Outcome::Ongoing, Stage::Said));
}

#[test]
fn the_manual_explains_every_stage_and_outcome() {
    let page = include_str!("../../../../docs/operations.md");
    for word in Stage::ALL.map(Stage::word).into_iter().chain(Outcome::ENDED.map(Outcome::word)) {
        let shown = format!("`{}`", word.replace('-', " "));
        assert!(page.contains(&shown), "{shown} is not explained");
    }
}
