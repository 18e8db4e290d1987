#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "async/event.h"
#include "async/executor.h"
#include "async/scope.h"
#include "async/task.h"
#include "block/export.h"
#include "net/listener.h"
#include "net/stream.h"
#include "session/negotiator.h"
#include "session/session_limits.h"
#include "session/session_shared.h"
#include "session/transmission.h"

namespace fdbnbd::session {

struct ServerStats {
  uint64_t connections = 0;  // open now, in handshake or after it
  uint64_t handshaking = 0;
  uint64_t sessions = 0;
  uint64_t requests_in_flight = 0;
  uint64_t bytes_in_flight = 0;  // of the process's budget

  uint64_t accepted_connections = 0;  // ever, as everything below
  uint64_t refused_connections = 0;   // over a bound, or out of descriptors
  uint64_t handshake_timeouts = 0;
  uint64_t evicted_peers = 0;
  uint64_t protocol_errors = 0;
  uint64_t requests = 0;
};

// Serves the exports of a registry to NBD clients. Connections are accepted and shake hands on the main
// executor; then each moves to the thread of its Export. All calls on the main executor's thread.
class SessionServer {
 public:
  struct Options {
    SessionLimits limits;
    TlsPolicy tls = TlsPolicy::off;
  };

  // `executor` and `exports` outlive it, and so do the executors of the Exports.
  SessionServer(Executor& executor, block::ExportRegistry& exports, Options options);
  // stop() has been awaited.
  ~SessionServer();
  SessionServer(const SessionServer&) = delete;
  SessionServer& operator=(const SessionServer&) = delete;

  // Accepts connections from it until stop() or stop_accepting().
  void serve(std::unique_ptr<net::Acceptor> acceptor);

  // Accepts no more where it listens at `address`; the connections from there stay.
  void stop_accepting(const std::string& address);

  // The bounds of connections and of what one connection may have in flight, and the time for a handshake.
  // They hold from the next connection and the next request on; the others stay as they are.
  void set_limits(const SessionLimits& limits);

  // Serves one client, for --stdio and clients in the same process (net::make_socket_pair()), until its
  // connection has ended. `stream` is attached to the main executor. Counts as a connection; refused, like
  // others, where there are too many. Errors: why there was no session; End::disconnected and End::stopped
  // are success.
  Task<Result<void>> serve_stream(std::unique_ptr<net::Stream> stream);

  // Accepts no more, closes the connections in handshake, and lets the sessions answer what is in flight; no
  // client gets an error. What is left after `timeout` is cut off. Done when no session is left. Once.
  Task<void> stop(Duration timeout);

  ServerStats stats() const;

  // Where the acceptors listen.
  std::vector<std::string> addresses() const;

 private:
  struct Connection {
    std::unique_ptr<net::Stream> stream;    // until the session has it
    std::shared_ptr<Transmission> session;  // once there is one
    Executor* executor = nullptr;           // the session's
    bool displaced = false;                 // closed in its handshake to make room for a newer one
  };
  using Connections = std::list<Connection>;

  using Acceptors = std::list<std::unique_ptr<net::Acceptor>>;

  Task<void> accept(Acceptors::iterator place);
  // Whether one more may begin. Where too many are in the handshake the oldest of them is closed for it, so
  // that silent peers do not keep clients out.
  bool make_room();
  Connections::iterator begin_connection(std::unique_ptr<net::Stream> stream);
  Task<void> run_accepted(Connections::iterator connection);
  Task<Result<void>> run_connection(Connections::iterator connection);
  void end_connection(Connections::iterator connection);
  // Calls stop() or abort() of a session on its thread, which is the only one that may touch it.
  using SessionCall = void (Transmission::*)();
  Task<void> call_session(Executor& home, std::shared_ptr<Transmission> session, SessionCall call);
  LoopResources& resources_of(Executor& executor);

  Executor& executor_;
  block::ExportRegistry& exports_;
  const TlsPolicy tls_;
  SessionShared shared_;
  std::map<Executor*, std::unique_ptr<LoopResources>> resources_;
  Acceptors acceptors_;
  uint32_t connections_limit_;
  Duration handshake_timeout_;
  Connections connections_;
  Event connection_ended_;
  TaskScope tasks_;
  bool stopping_ = false;

  uint64_t handshaking_count_ = 0;
  uint64_t displaced_count_ = 0;  // of these: closed, but not ended yet
  uint64_t accepted_count_ = 0;
  uint64_t refused_count_ = 0;
  uint64_t handshake_timeouts_count_ = 0;
};

}  // namespace fdbnbd::session
