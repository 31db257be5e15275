module Ctkd.Fs.Tests.BlocksTests

open System
open System.Runtime.InteropServices
open Expecto
open FsCheck
open FsCheck.FSharp
open Ctkd.Engine

let private grain = int64 Blocks.Grain

/// Runs the body on a range of `grains` grains without memory: blocks only compute addresses.
let private onRange (grains: int) (body: Blocks -> nativeint -> unit) : unit =
    let length = int64 grains * grain
    let table = Marshal.AllocHGlobal(nativeint (Blocks.TableBytes length))

    try
        Marshal.Copy(Array.zeroCreate<byte>(int (Blocks.TableBytes length)), 0, table, int (Blocks.TableBytes length))

        let start = 1n <<< 40
        body (Blocks(start, length, table)) start
    finally
        Marshal.FreeHGlobal table

let private taken (blocks: Blocks) (bytes: int64) : nativeint = blocks.Take(unativeint bytes)

/// The reference for a range of `grains` grains: the free gaps by address, computed from the live blocks.
let private gaps (grains: int) (start: nativeint) (live: Map<nativeint, int64>) : (nativeint * int64) list =
    let stop = start + nativeint (int64 grains * grain)

    let edge, found =
        ((start, []), Map.toSeq live)
        ||> Seq.fold (fun (edge, found) (at, size) ->
            at + nativeint size, (if at > edge then (edge, int64 (at - edge)) :: found else found)
        )

    if stop > edge then (edge, int64 (stop - edge)) :: found else found

/// Rounds a size up to whole grains.
let roundUp (bytes: int64) : int64 = (bytes + grain - 1L) / grain * grain

/// Takes (sizes above 0) and frees (other numbers select a live block), and compares the gaps after each move.
let private plays (grains: int) (moves: int list) : bool =
    onRange
        grains
        (fun blocks start ->
            let mutable live = Map.empty

            for move in moves do
                let free = gaps grains start live

                if move > 0 then
                    let size = roundUp (int64 move)
                    let at = taken blocks (int64 move)
                    let fitting = free |> List.filter (fun (_, length) -> length >= size)

                    match fitting with
                    | [] -> Must.equal 0n at
                    | _ ->
                        // the smallest that fits
                        Must.have at (List.map fst fitting)

                        Must.equal (fitting |> List.map snd |> List.min) (List.find (fst >> (=) at) fitting |> snd)

                        live <- Map.add at size live
                elif not live.IsEmpty then
                    let at, _ = Seq.item (-move % live.Count) (Map.toSeq live)
                    Must.hold (blocks.Give at)
                    Must.notHold (blocks.Give at)
                    live <- Map.remove at live

                Must.equal live.Count blocks.TakenBlocks
                Must.equal (Seq.sum live.Values) blocks.Taken
                // neighbours merge: there are as many free blocks as gaps
                Must.equal (gaps grains start live).Length blocks.FreeBlocks

            let mutable seen = []
            blocks.ForEachFree(fun at bytes -> seen <- (at, bytes) :: seen)
            Must.equal (List.sort (gaps grains start live)) (List.sort seen)

            for at in live.Keys do
                Must.hold (blocks.Give at)

            Must.equal (0L, 1) (blocks.Taken, blocks.FreeBlocks)
            Must.equal start (taken blocks (int64 grains * grain))
        )

    true

let private moves: Arbitrary<int list> =
    let size = Gen.frequency [ 3, Gen.choose (1, 9 * int grain); 1, Gen.choose (1, 100 * int grain) ]
    let move = Gen.frequency [ 5, size; 4, Gen.choose (-1000, 0) ]

    Arb.fromGenShrink (Gen.listOfLength 200 move, Arb.toShrink (ArbMap.defaults |> ArbMap.arbitrary<int list>))

let tests =
    testList "Blocks" [
        testProperty "the best fit is taken and neighbours merge" <| Prop.forAll moves (plays 256)

        test "a range that is used up, sizes of nothing and of too much" {
            onRange
                4
                (fun blocks start ->
                    Must.equal 0n (taken blocks 0L)
                    Must.equal 0n (blocks.Take UIntPtr.MaxValue)
                    Must.equal 0n (taken blocks (4L * grain + 1L))
                    Must.equal start (taken blocks (4L * grain))
                    Must.equal 0n (taken blocks 1L)
                )
        }

        test "addresses where no block begins are refused" {
            onRange
                4
                (fun blocks start ->
                    let at = taken blocks (2L * grain)

                    for wrong in
                        [ 0n; start - nativeint grain; at + 64n; at + nativeint grain; start + nativeint (4L * grain) ] do
                        Must.notHold (blocks.Give wrong)

                    Must.equal (2L * grain) blocks.Taken
                )
        }
    ]
