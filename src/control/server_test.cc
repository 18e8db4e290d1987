#include "control/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "async/sim_loop.h"
#include "control/fake_store_testing.h"
#include "net/pipe_stream_testing.h"

namespace fdbnbd::control {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct ControlServerTest : ::testing::Test {
  ControlServerTest() {
    store.volumes["a"] = {
        .name = "a", .size_bytes = 4096, .block_bytes = 4096, .labels = {}, .snapshots = {}};
  }

  // A new connection's other end.
  std::unique_ptr<net::Stream> connect(net::PipeOptions options = {}) {
    auto [client, served] = net::make_pipe(loop, options);
    server.serve(std::move(served));
    return std::move(client);
  }

  static Task<void> write(net::Stream& stream, std::string text) {
    EXPECT_TRUE((co_await stream.write_all(as_bytes(text))).has_value());
  }

  // The next `count` lines, fewer where the server ends the connection.
  static Task<std::vector<std::string>> read_lines(net::Stream& stream, size_t count) {
    std::vector<std::string> lines;
    std::string line;
    while (lines.size() < count) {
      std::byte byte{};
      const auto read = co_await stream.read_some({&byte, 1});
      if (!read || *read == 0) break;
      if (static_cast<char>(byte) != '\n') {
        line += static_cast<char>(byte);
      } else {
        lines.push_back(std::exchange(line, {}));
      }
    }
    EXPECT_EQ(line, "") << "half a line";
    co_return lines;
  }

  static Task<std::vector<std::string>> ask(net::Stream& stream, std::string text, size_t answers_count) {
    co_await write(stream, std::move(text));
    co_return co_await read_lines(stream, answers_count);
  }

  SimLoop loop{1};
  FakeStore store;
  FakeStatus status;
  Service service{store, status};
  std::vector<std::unique_ptr<net::Stream>> nbd_streams;
  ControlServer server{
      loop, service,
      [this](std::unique_ptr<net::Stream> stream) { nbd_streams.push_back(std::move(stream)); }, 3};
};

TEST_F(ControlServerTest, RequestsOfOneConnectionAreAnsweredInOrder) {
  const auto client = connect();
  const auto answers = loop.run(ask(*client,
                                    "{\"verb\":\"create\",\"name\":\"b\",\"size_bytes\":512}\n"
                                    "{\"verb\":\"mv\",\"name\":\"b\",\"new_name\":\"c\"}\n"
                                    "{\"verb\":\"rm\",\"name\":\"b\"}\n"
                                    "{\"verb\":\"resize\",\"name\":\"c\",\"size_bytes\":1024}\n"
                                    "{\"verb\":\"rm\",\"name\":\"c\"}\n",
                                    5));
  EXPECT_THAT(answers,
              ElementsAre(HasSubstr(R"("name":"b")"), R"({"result":{"schema":1}})",
                          R"({"error":{"code":"not_found","message":"there is no volume b"}})",
                          HasSubstr(R"("size_bytes":1024)"), HasSubstr(R"("trashed":[{"name":"c")")));
  loop.run(server.stop());
}

TEST_F(ControlServerTest, BadMessagesAreAnsweredAndTheConnectionGoesOn) {
  const auto client = connect();
  const std::string too_long(limits::kMaxControlMessageBytes + 1, 'x');
  const auto answers = loop.run(
      ask(*client, "garbage\n" + too_long + "\n{\"verb\":\"fly\"}\n{\"verb\":\"info\",\"name\":\"a\"}\n", 4));
  EXPECT_THAT(answers, ElementsAre(StartsWith(R"({"error":{"code":"invalid")"),
                                   StartsWith(R"({"error":{"code":"too_large")"),
                                   StartsWith(R"({"error":{"code":"invalid")"),
                                   StartsWith(R"({"result":{"schema":1,"name":"a")")));
  loop.run(server.stop());
}

TEST_F(ControlServerTest, HelloAndStatusTellOfTheServer) {
  const auto client = connect();
  const auto answers = loop.run(ask(*client, "{\"verb\":\"hello\"}\n{\"verb\":\"status\"}\n", 2));
  EXPECT_THAT(answers, ElementsAre(R"({"result":{"schema":1,"pid":42,"version":"1.2.3","store":"memory:"}})",
                                   HasSubstr(R"("volumes":1,"volumes_open":0,"sessions":3)")));
  loop.run(server.stop());
}

TEST_F(ControlServerTest, UsageOfAllVolumesSkipsNone) {
  store.volumes["b"] = {.name = "b",
                        .size_bytes = 8192,
                        .used_bytes = 8192,
                        .block_bytes = 4096,
                        .labels = {},
                        .snapshots = {}};
  const auto client = connect();
  auto answers = loop.run(ask(*client, "{\"verb\":\"du\"}\n", 1));
  while (answers.back().starts_with("{\"progress\"")) answers = loop.run(read_lines(*client, 1));
  EXPECT_THAT(answers.back(),
              HasSubstr(R"({"name":"b","size_bytes":8192,"used_bytes":8192,"stored_bytes":4096,)"
                        R"("unique_bytes":2048,"shared_bytes":2048,"snapshots":[{"name":"monday",)"));
  EXPECT_THAT(answers.back(), HasSubstr(R"({"name":"a")"));
  loop.run(server.stop());
}

TEST_F(ControlServerTest, LongWorkTellsItsProgressBeforeItsResult) {
  store.hold_check = true;
  const auto client = connect();
  const auto progress = loop.run(ask(*client, "{\"verb\":\"check\"}\n", 1));
  EXPECT_THAT(progress, ElementsAre(R"({"progress":{"done_bytes":512,"total_bytes":4096}})"));
  store.hold_check = false;
  store.check_changed.notify_all();
  EXPECT_THAT(loop.run(read_lines(*client, 1)),
              ElementsAre(StartsWith(R"({"result":{"schema":1,"volumes_count":1)")));
  loop.run(server.stop());
}

TEST_F(ControlServerTest, RepairTellsWhatWasMendedAndIsOfTheWholeStore) {
  store.findings = {{"a", 0, 4096, "it was wrong"}};
  const auto client = connect();
  const auto answers = loop.run(
      ask(*client,
          "{\"verb\":\"check\",\"repair\":true}\n{\"verb\":\"check\",\"repair\":true,\"name\":\"a\"}\n", 2));
  EXPECT_THAT(answers, ElementsAre(HasSubstr(R"("findings_count":1,"mended_count":1,)"),
                                   StartsWith(R"({"error":{"code":"invalid")")));
  EXPECT_THAT(answers[0], HasSubstr(R"("what":"it was wrong","mended":true)"));
  loop.run(server.stop());
}

TEST_F(ControlServerTest, AClientThatGoesAwayCancelsItsWork) {
  store.hold_check = true;
  auto client = connect();
  loop.run(ask(*client, "{\"verb\":\"check\"}\n", 1));
  client->close();
  while (server.connections_count() > 0) {
    if (!loop.step()) store.check_changed.notify_all();
  }
  EXPECT_TRUE(store.check_was_cancelled);
  loop.run(server.stop());
}

TEST_F(ControlServerTest, OtherConnectionsAreServedDuringLongWork) {
  store.hold_check = true;
  const auto busy = connect();
  loop.run(ask(*busy, "{\"verb\":\"check\"}\n", 1));
  const auto other = connect();
  EXPECT_THAT(loop.run(ask(*other, "{\"verb\":\"info\",\"name\":\"a\"}\n", 1)),
              ElementsAre(HasSubstr(R"("name":"a")")));
  store.hold_check = false;
  store.check_changed.notify_all();
  EXPECT_EQ(loop.run(read_lines(*busy, 1)).size(), 1U);
  loop.run(server.stop());
}

TEST_F(ControlServerTest, StopCancelsLongWorkAndAnswersIt) {
  store.hold_check = true;
  const auto client = connect();
  loop.run(ask(*client, "{\"verb\":\"check\"}\n", 1));
  bool stopped = false;
  const auto stop = [](ControlServer& control, bool& done) -> Task<void> {
    co_await control.stop();
    done = true;
  };
  TaskScope scope;
  scope.spawn(stop(server, stopped));
  store.check_changed.notify_all();
  EXPECT_THAT(loop.run(read_lines(*client, 2)), ElementsAre(StartsWith(R"({"error":{"code":"cancelled")")));
  loop.run([](TaskScope& tasks) -> Task<void> { co_await tasks.join(); }(scope));
  EXPECT_TRUE(stopped);
  EXPECT_EQ(server.connections_count(), 0U);
}

TEST_F(ControlServerTest, ConnectionsAboveTheLimitAreToldSo) {
  const std::unique_ptr<net::Stream> taken[] = {connect(), connect(), connect()};
  const auto refused = connect();
  EXPECT_THAT(loop.run(read_lines(*refused, 2)), ElementsAre(StartsWith(R"({"error":{"code":"busy")")));
  EXPECT_EQ(server.connections_count(), 3U);
  loop.run(server.stop());
}

TEST_F(ControlServerTest, NbdHandsTheConnectionOver) {
  const auto client = connect();
  EXPECT_THAT(loop.run(ask(*client, "{\"verb\":\"nbd\"}\n", 1)), ElementsAre(R"({"result":{"schema":1}})"));
  while (server.connections_count() > 0) ASSERT_TRUE(loop.step());
  ASSERT_EQ(nbd_streams.size(), 1U);
  loop.run(write(*nbd_streams[0], "greeting\n"));
  EXPECT_THAT(loop.run(read_lines(*client, 1)), ElementsAre("greeting"));
  loop.run(server.stop());
}

TEST_F(ControlServerTest, NbdWithSomethingBehindItIsRefused) {
  const auto client = connect();
  const auto answers = loop.run(ask(*client, "{\"verb\":\"nbd\"}\n{\"verb\":\"hello\"}\n", 2));
  EXPECT_THAT(answers, ElementsAre(StartsWith(R"({"error":{"code":"protocol")"), StartsWith(R"({"result")")));
  EXPECT_TRUE(nbd_streams.empty());
  loop.run(server.stop());
}

TEST_F(ControlServerTest, AClientThatReadsNothingDoesNotStopTheServer) {
  const auto client = connect({.capacity_bytes = 16});
  loop.run(write(*client, "{\"verb\":\"ls\"}\n{\"verb\":\"ls\"}\n"));
  const auto other = connect();
  EXPECT_EQ(loop.run(ask(*other, "{\"verb\":\"ls\"}\n", 1)).size(), 1U);
  client->close();
  while (server.connections_count() > 1) ASSERT_TRUE(loop.step());
  loop.run(server.stop());
}

TEST_F(ControlServerTest, StopCutsOffAClientThatTakesNoAnswer) {
  const auto client = connect({.capacity_bytes = 16});
  loop.run(write(*client, "{\"verb\":\"ls\"}\n"));
  std::byte first{};
  EXPECT_EQ(loop.run(client->read_some({&first, 1})), size_t{1});
  const MonotonicTime started = loop.clock().now();
  loop.run(server.stop());
  EXPECT_EQ(loop.clock().now() - started, Duration(limits::kLingerTimeout));
  EXPECT_EQ(server.connections_count(), 0U);
}

TEST(ControlServerSeeds, AnswersAreTheSameHoweverTheBytesMove) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SimLoop loop(seed);
    FakeStore store;
    FakeStatus status;
    Service service(store, status);
    ControlServer server(loop, service, [](std::unique_ptr<net::Stream> /*stream*/) {});
    auto [client, served] = net::make_pipe(loop, {.capacity_bytes = 64, .random = &loop.random()});
    server.serve(std::move(served));
    const auto answers = loop.run(ControlServerTest::ask(
        *client, "{\"verb\":\"create\",\"name\":\"b\",\"size_bytes\":512}\nx\n{\"verb\":\"check\"}\n", 3));
    EXPECT_THAT(answers,
                ElementsAre(StartsWith(R"({"result":{"schema":1,"name":"b")"), StartsWith(R"({"error")"),
                            StartsWith(R"({"result":{"schema":1,"volumes_count":1)")))
        << "seed " << seed;
    loop.run(server.stop());
  }
}

}  // namespace
}  // namespace fdbnbd::control
