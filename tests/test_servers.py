"""That the servers which tests start are what the tests take them for."""

from typing import Any

import redis
import sqlalchemy as sa


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


def test_every_test_gets_an_empty_database_of_its_own(needs_postgres: str, postgres_server: Any) -> None:
    other = postgres_server.new_database()
    assert other != needs_postgres
    for url in (needs_postgres, other):
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text("create table only_here (n int)"))
        engine.dispose()
