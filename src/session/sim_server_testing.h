#pragma once

#include <chrono>
#include <memory>
#include <utility>

#include "async/sim_loop.h"
#include "base/random.h"
#include "net/pipe_stream_testing.h"
#include "session/client_testing.h"
#include "session/fake_export_testing.h"
#include "session/server.h"

namespace fdbnbd::session {

// A server with one fake export, reached through pipes, on a simulated loop.
struct SimServer {
  struct Options {
    uint64_t seed = 1;
    SessionLimits limits;
    FakeExport::Options fake;
    size_t pipe_bytes = 64 * 1024;
    bool random_pipes = false;
    bool random_delays = false;
  };

  explicit SimServer(Options options);
  ~SimServer();

  std::unique_ptr<net::Stream> dial() { return acceptor->connect(); }
  // Lets time pass.
  void run_for(Duration duration) { loop.run(pass(duration)); }
  void run(Task<void> task) { loop.run(std::move(task)); }
  // Done by the destructor where it was not before.
  void stop(Duration timeout = std::chrono::seconds(30));

  SimLoop loop;
  Random random;
  std::shared_ptr<FakeExport> exported;
  FakeRegistry registry;
  SessionServer server;
  net::PipeAcceptor* acceptor = nullptr;
  bool stopped = false;

 private:
  Task<void> pass(Duration duration) { co_await sleep_for(loop, duration); }
};

}  // namespace fdbnbd::session
