"""That the servers which tests start are what the tests take them for."""

from typing import Any

import redis


def test_a_private_redis_forgets_all_when_it_is_killed_and_keeps_its_port(needs_redis: Any) -> None:
    with redis.Redis.from_url(needs_redis.url) as client:
        assert client.dbsize() == 0
        client.set("a", 1)
    port = needs_redis.port
    needs_redis.kill()
    needs_redis.start()
    assert needs_redis.port == port
    with redis.Redis.from_url(needs_redis.url) as client:
        assert client.dbsize() == 0


def test_a_test_that_asks_for_a_server_is_no_part_of_the_default_run(request: Any, needs_redis: Any) -> None:
    assert request.node.get_closest_marker("server") is not None
