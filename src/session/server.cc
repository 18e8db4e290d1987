#include "session/server.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "session/handshake.h"

namespace fdbnbd::session {

SessionServer::SessionServer(Executor& executor, block::ExportRegistry& exports, Options options)
    : executor_(executor),
      exports_(exports),
      tls_(options.tls),
      shared_(options.limits),
      connections_limit_(options.limits.connections_count),
      handshake_timeout_(options.limits.handshake_timeout) {}

SessionServer::~SessionServer() {
  ASSERT(connections_.empty() && tasks_.running_count() == 0);
}

void SessionServer::serve(std::unique_ptr<net::Acceptor> acceptor) {
  ASSERT(!stopping_);
  tasks_.spawn(accept(acceptors_.insert(acceptors_.end(), std::move(acceptor))));
}

void SessionServer::stop_accepting(const std::string& address) {
  const auto found = std::ranges::find(acceptors_, address, [](const auto& one) { return one->address(); });
  if (found != acceptors_.end()) (*found)->close();
}

void SessionServer::set_limits(const SessionLimits& limits) {
  connections_limit_ = limits.connections_count;
  handshake_timeout_ = limits.handshake_timeout;
  shared_.requests_per_connection.store(limits.requests_per_connection, std::memory_order_relaxed);
  shared_.connection_bytes.store(limits.connection_bytes, std::memory_order_relaxed);
}

Task<void> SessionServer::accept(Acceptors::iterator place) {
  net::Acceptor& acceptor = **place;
  for (;;) {
    auto accepted = co_await acceptor.accept();
    if (stopping_) co_return;
    if (accepted) {
      if (make_room()) {
        tasks_.spawn(run_accepted(begin_connection(std::move(*accepted))));
      }
    } else if (accepted.error().code == Errc::too_large) {
      ++refused_count_;
      log::warning("{}: a connection was refused: {}", acceptor.address(), accepted.error().what);
    } else if (accepted.error().code == Errc::cancelled) {
      acceptors_.erase(place);
      co_return;
    } else {
      log::error("{}: accepts no more: {}", acceptor.address(), accepted.error().what);
      co_return;
    }
  }
}

bool SessionServer::make_room() {
  if (stopping_ || connections_.size() >= connections_limit_) {
    ++refused_count_;
    return false;
  }
  if (handshaking_count_ - displaced_count_ < shared_.limits.handshaking_count) return true;
  ++refused_count_;
  for (Connection& connection : connections_) {
    if (connection.session != nullptr || connection.displaced) continue;
    connection.displaced = true;
    ++displaced_count_;
    connection.stream->close();
    return true;
  }
  return false;
}

SessionServer::Connections::iterator SessionServer::begin_connection(std::unique_ptr<net::Stream> stream) {
  ++accepted_count_;
  return connections_.insert(
      connections_.end(),
      {.stream = std::move(stream), .session = nullptr, .executor = nullptr, .displaced = false});
}

Task<void> SessionServer::run_accepted(Connections::iterator connection) {
  // What went wrong is in the log, and the client knows.
  (void)co_await run_connection(connection);
}

Task<Result<void>> SessionServer::serve_stream(std::unique_ptr<net::Stream> stream) {
  if (!make_room()) co_return fail(Errc::busy, "too many connections");
  co_return co_await run_connection(begin_connection(std::move(stream)));
}

Task<Result<void>> SessionServer::run_connection(Connections::iterator connection) {
  const std::string peer = connection->stream->peer();
  ++handshaking_count_;
  auto hands = co_await shake_hands(*connection->stream, executor_, exports_, tls_, handshake_timeout_);
  --handshaking_count_;
  const bool displaced = connection->displaced;
  if (displaced) --displaced_count_;
  if (!hands || stopping_ || displaced) {
    end_connection(connection);
    if (stopping_) co_return fail(Errc::cancelled, "the server is stopping");
    if (displaced) co_return fail(Errc::busy, "too many clients in the handshake");
    const Error& error = hands.error();
    if (error.code == Errc::timeout) ++handshake_timeouts_count_;
    if (error.code == Errc::protocol)
      shared_.counters.protocol_errors.fetch_add(1, std::memory_order_relaxed);
    log::debug("{}: no session: {}", peer, error.what);
    co_return propagate(hands);
  }

  const std::shared_ptr<block::Export> exported = std::move(hands->exported);
  Executor& home = exported->executor();
  LoopResources& resources = resources_of(home);
  connection->stream->detach();
  const auto session = std::make_shared<Transmission>(
      std::move(connection->stream), *exported, hands->agreement, std::move(hands->early_bytes), shared_);
  connection->session = session;
  connection->executor = &home;
  log::info("{}: session on '{}' begins", peer, exported->info().name);

  co_await reschedule(home);
  const End end = co_await session->run(resources);
  co_await reschedule(executor_);

  log::info("{}: session on '{}' ends after {} requests: {}", peer, exported->info().name,
            session->requests_count(), to_string(end));
  end_connection(connection);
  if (end == End::disconnected || end == End::stopped) co_return Result<void>();
  co_return fail(end == End::protocol ? Errc::protocol : Errc::peer_gone, to_string(end));
}

LoopResources& SessionServer::resources_of(Executor& executor) {
  auto& resources = resources_[&executor];
  if (resources == nullptr) resources = std::make_unique<LoopResources>(shared_.limits);
  return *resources;
}

void SessionServer::end_connection(Connections::iterator connection) {
  connections_.erase(connection);
  connection_ended_.notify_all();
}

Task<void> SessionServer::call_session(Executor& home, std::shared_ptr<Transmission> session,
                                       SessionCall call) {
  co_await reschedule(home);
  ((*session).*call)();
  co_await reschedule(executor_);
}

Task<void> SessionServer::stop(Duration timeout) {
  struct CutOff final : TimerWork {
    explicit CutOff(SessionServer& stopped) : server(stopped) {}
    void run() noexcept override {
      for (const Connection& connection : server.connections_) {
        if (connection.session == nullptr) continue;
        server.tasks_.spawn(
            server.call_session(*connection.executor, connection.session, &Transmission::abort));
      }
    }
    SessionServer& server;
  };
  ASSERT(!stopping_);
  stopping_ = true;
  for (const auto& acceptor : acceptors_) acceptor->close();
  for (const Connection& connection : connections_) {
    if (connection.session == nullptr) {
      connection.stream->close();
    } else {
      tasks_.spawn(call_session(*connection.executor, connection.session, &Transmission::stop));
    }
  }
  CutOff cut_off(*this);
  executor_.start_timer(cut_off, timeout);
  while (!connections_.empty()) co_await connection_ended_.wait();
  executor_.cancel_timer(cut_off);
  co_await tasks_.join();
}

ServerStats SessionServer::stats() const {
  const SessionCounters& counters = shared_.counters;
  return {.connections = connections_.size(),
          .handshaking = handshaking_count_,
          .sessions = connections_.size() - handshaking_count_,
          .requests_in_flight = counters.requests_in_flight.load(std::memory_order_relaxed),
          .bytes_in_flight = shared_.budget.used_bytes(),
          .accepted_connections = accepted_count_,
          .refused_connections = refused_count_,
          .handshake_timeouts = handshake_timeouts_count_,
          .evicted_peers = counters.evicted_peers.load(std::memory_order_relaxed),
          .protocol_errors = counters.protocol_errors.load(std::memory_order_relaxed),
          .requests = counters.requests_count.load(std::memory_order_relaxed)};
}

std::vector<std::string> SessionServer::addresses() const {
  std::vector<std::string> addresses;
  for (const auto& acceptor : acceptors_) addresses.push_back(acceptor->address());
  return addresses;
}

}  // namespace fdbnbd::session
