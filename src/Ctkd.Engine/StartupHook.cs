/// <summary>The runtime calls this before a program's own code where DOTNET_STARTUP_HOOKS names the assembly.</summary>
internal static class StartupHook
{
    /// <summary>Answers a check's question in place of the program.</summary>
    public static void Initialize() => Ctkd.Engine.ChildCheck.Answer();
}
