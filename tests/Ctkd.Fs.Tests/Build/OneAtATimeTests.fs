module Ctkd.Fs.Tests.OneAtATimeTests

open System
open System.IO
open System.Threading.Tasks
open Expecto
open Ctkd.Fs.Tests.Folders

let tests =
    testList "OneAtATime" [
        test "two builds that install packages at once do it one after the other, and the second says that it waits" {
            inFolder (fun folder ->
                let file = Path.Combine(folder, "lock")
                let events = Collections.Concurrent.ConcurrentQueue<string>()
                use begun = new Threading.ManualResetEventSlim()
                use waits = new Threading.ManualResetEventSlim()

                let first =
                    Task.Run(fun () ->
                        OneAtATime.run
                            events.Enqueue
                            file
                            (fun () ->
                                begun.Set()
                                Must.hold (waits.Wait 20_000)
                                events.Enqueue "first"
                            )
                    )

                let second =
                    Task.Run(fun () ->
                        Must.hold (begun.Wait 20_000)

                        let tell text =
                            events.Enqueue text
                            waits.Set()

                        OneAtATime.run tell file (fun () -> events.Enqueue "second")
                    )

                Must.hold (Task.WaitAll([| first; second |], 30_000))

                Must.equal
                    [ "another build on this machine is at it: waiting for its end"; "first"; "second" ]
                    (List.ofSeq events)
            )
        }

        test "a lock that no process holds is taken at once, and one that cannot be written is an error" {
            inFolder (fun folder ->
                let file = Path.Combine(folder, "lock")
                File.WriteAllText(file, "left by a killed process")
                let never _ = failtest "nobody holds it"
                Must.equal 3 (OneAtATime.run never file (fun () -> 3))
                Must.equal 4 (OneAtATime.run never file (fun () -> 4))

                Must.throwAny<IOException>(fun () -> OneAtATime.run never (Path.Combine(folder, "no", "lock")) ignore)
                |> ignore
            )
        }
    ]
