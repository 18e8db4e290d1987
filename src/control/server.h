#pragma once

#include <cstdint>
#include <list>
#include <memory>

#include "async/executor.h"
#include "async/scope.h"
#include "async/task.h"
#include "base/function.h"
#include "base/limits.h"
#include "control/service.h"
#include "net/stream.h"

namespace fdbnbd::control {

class Connection;

// Serves the control protocol on connections. Lives on one executor, the store's: all calls on its thread.
class ControlServer {
 public:
  // Takes over a connection that asked to speak NBD from here on; it is attached to the server's executor.
  using StartNbd = UniqueFunction<void(std::unique_ptr<net::Stream>)>;

  // `executor` and `service` outlive the server.
  ControlServer(Executor& executor, Service& service, StartNbd start_nbd,
                uint32_t connections_limit = limits::kMaxControlConnections);
  // Only after stop().
  ~ControlServer();

  // Serves a connection that is attached to the executor; one above the limit is told so and closed.
  void serve(std::unique_ptr<net::Stream> stream);

  // Answers what is being carried out (long work is cancelled), ends all connections, and returns when they
  // have ended; one whose client takes no answer is cut off after limits::kLingerTimeout. Connections
  // that come later are closed.
  Task<void> stop();

  size_t connections_count() const { return connections_.size(); }

 private:
  class CutOff;

  Task<void> run(std::list<std::unique_ptr<Connection>>::iterator connection);

  Executor& executor_;
  Service& service_;
  StartNbd start_nbd_;
  const uint32_t connections_limit_;
  bool stopping_ = false;
  std::list<std::unique_ptr<Connection>> connections_;
  TaskScope tasks_;
};

}  // namespace fdbnbd::control
