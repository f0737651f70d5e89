// The echo plugin's work, done by Socket.IO on ws with its default settings: `node server.js PORT`

import { Server } from "socket.io";

const io = new Server();

io.on("connection", (socket) => {
  socket.on("join", (room, answer) => {
    socket.join(room);
    answer("ok");
  });
  socket.on("echo", (payload, answer) => answer(payload));
  socket.on("shout", (room, payload) => io.to(room).emit("shout", payload));
});

io.listen(Number(process.argv[2] ?? 3000));
console.log("listening");
