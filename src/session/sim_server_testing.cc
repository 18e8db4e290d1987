#include "session/sim_server_testing.h"

#include <chrono>
#include <utility>

namespace fdbnbd::session {

namespace {

FakeExport::Options with_delays(FakeExport::Options fake, Random& random, bool delays) {
  if (delays) {
    fake.random = &random;
    fake.delay_max = std::chrono::milliseconds(10);
  }
  return fake;
}

}  // namespace

SimServer::SimServer(Options options)
    : loop(options.seed),
      random(options.seed + 1),
      exported(std::make_shared<FakeExport>(loop, with_delays(options.fake, random, options.random_delays))),
      server(loop, registry, {.limits = options.limits}) {
  registry.add(exported);
  auto pipes = std::make_unique<net::PipeAcceptor>(
      loop, net::PipeOptions{.capacity_bytes = options.pipe_bytes,
                             .random = options.random_pipes ? &random : nullptr});
  acceptor = pipes.get();
  server.serve(std::move(pipes));
}

SimServer::~SimServer() {
  if (!stopped) stop();
}

void SimServer::stop(Duration timeout) {
  stopped = true;
  loop.run(server.stop(timeout));
}

}  // namespace fdbnbd::session
