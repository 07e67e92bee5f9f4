use crate::fleet::Fleet;

#[tokio::test(start_paused = true)]
async fn handles_of_one_name_share_the_permits_and_those_of_another_do_not() {
    let fleet = Fleet::in_process();
    let (a, b) = (
        fleet.lock("gpu").build().unwrap(),
        fleet.clone().lock("gpu").build().unwrap(),
    );
    let guard = a.acquire("a").await.unwrap();
    assert!(b.try_acquire("b").await.is_err());
    assert!(
        fleet
            .lock("cpu")
            .build()
            .unwrap()
            .try_acquire("c")
            .await
            .is_ok()
    );
    assert!(
        Fleet::in_process()
            .lock("gpu")
            .build()
            .unwrap()
            .try_acquire("d")
            .await
            .is_ok()
    );
    let waits = tokio::spawn(async move { b.acquire("b").await.map(|it| it.fence()) });
    tokio::task::yield_now().await;
    drop(guard);
    waits.await.unwrap().unwrap();
}

#[test]
fn settings_that_cannot_work_are_refused_with_what_to_change() {
    use std::time::Duration;
    let fleet = Fleet::in_process();
    let lock = || fleet.lock("gpu");
    for (builder, setting) in [
        (lock().max_concurrent(0), "max_concurrent"),
        (lock().max_concurrent(1_000_001), "max_concurrent"),
        (lock().lease(Duration::from_millis(299)), "lease"),
        (lock().lease(Duration::from_secs(3_601)), "lease"),
        (lock().local(0), "local"),
        (lock().hold_threshold(Duration::ZERO), "hold_threshold"),
    ] {
        assert_eq!(builder.build().unwrap_err().setting(), setting);
    }
}
